#!/usr/bin/env bash
# Sets up the Autobahn testsuite 25.10.1 (wstest; Python 2.7 only) in DIR, from package registries. Nothing is installed
# on the system; DIR cannot be moved afterwards. Needs python3 with venv.
# usage: setup.sh DIR apt|pyenv
#   apt:   unpack Debian bullseye's python2.7 under DIR/apt, from the mirror that apt-get is configured for
#   pyenv: use a Python 2.7 that is there (PYTHON2=path, or ~/.pyenv/versions/2.7*/bin/python2.7)
set -eu
src=$(cd "$(dirname "$0")" && pwd)
dir=$1; how=$2
mkdir -p "$dir"; dir=$(cd "$dir" && pwd); cd "$dir"
[ "$src" = "$dir" ] || cp "$src"/{wstest-loopback.py,summarize.py,kit.sh,run-server-test.sh,run-client-test.sh,requirements-py2.txt} .
py=${PYTHON2:-$(compgen -G "${HOME:-/root}/.pyenv/versions/2.7*/bin/python2.7" | tail -n 1 || true)}
lib=
if [ "$how" = apt ]; then
  mkdir -p apt/etc apt/lists/partial apt/cache/archives/partial apt/state apt/debs apt/root
  # Either of the two forms that sources have (sources.list(5)).
  mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
      sed -n -e 's/^URIs: *\(.*\/debian\)\/\? *$/\1/p' -e 's/^deb  *\(\[.*\] *\)\?\([^ ]*\/debian\)\/\? .*/\2/p' | head -n 1)
  cat > apt/etc/bullseye.sources <<S
Types: deb
URIs: ${mirror:?no Debian mirror configured}
Suites: bullseye
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
S
  cat > apt/apt.conf <<S
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$dir/apt/etc";
Dir::State "$dir/apt/state";
Dir::State::Lists "$dir/apt/lists";
Dir::Cache "$dir/apt/cache";
S
  export APT_CONFIG=$dir/apt/apt.conf
  apt-get -q update
  (cd apt/debs && apt-get -q download python2.7 python2.7-minimal libpython2.7-minimal libpython2.7-stdlib \
      libpython2.7 libpython2.7-dev libssl1.1 libffi7)
  unset APT_CONFIG
  for d in apt/debs/*.deb; do dpkg-deb -x "$d" apt/root; done
  py=$dir/apt/root/usr/bin/python2.7
  lib=$dir/apt/root/usr/lib/$(uname -m)-linux-gnu          # libssl1.1, libffi7
  export LD_LIBRARY_PATH=$lib
  export CPATH=$dir/apt/root/usr/include/python2.7:$dir/apt/root/usr/include     # headers for wsaccel
fi
[ -x "$py" ] || { echo "no Python 2.7" >&2; exit 1; }
python3 -m venv tools
tools/bin/pip install -q 'virtualenv==20.15.1'        # the last line that makes Python 2.7 environments; embeds pip 20.3.4
tools/bin/virtualenv -q -p "$py" py2
install=(py2/bin/pip install -q --no-python-version-warning)
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || install+=(--cert /etc/ssl/certs/ca-certificates.crt)
"${install[@]}" -r requirements-py2.txt
# optional: C versions of XOR masking and UTF-8 validation (needs gcc and Python 2.7 headers); pure Python without
"${install[@]}" 'wsaccel==0.6.2' || echo "wsaccel not built: slower, still works"
cat > wstest <<S
#!/bin/sh
# wstest with every listener bound to 127.0.0.1
${lib:+export LD_LIBRARY_PATH=$lib
}exec "$dir/py2/bin/python" -u "$dir/wstest-loopback.py" "\$@"
S
chmod +x wstest
./wstest -a
