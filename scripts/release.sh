#!/usr/bin/env bash
# Builds what people install: static binaries, packages, an image, each tried once.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/release.sh VERSION [--out DIR] [--target TRIPLE] [--check-reproducible]

Builds static binaries of sparring-server and sparring-loadgen (musl), and from them:

  sparring-VERSION-TARGET.tar.gz     bin and share, for /usr/local: programs, manual, completions
  sparring_VERSION-1_ARCH.deb        the same for Debian and Ubuntu
  sparring-VERSION-1.ARCH.rpm        the same for Fedora, RHEL, SUSE
  sparring-VERSION-TARGET.oci.tar    an image from scratch with the two binaries, for an ordinary user
  sparring-VERSION.PROGRAM.cdx.json  the dependencies of each program (CycloneDX)
  SHA256SUMS                         checksums of all of them

VERSION must be the workspace's version. Then each is tried: the .deb is installed into an empty
system, run there and removed; the image's files are run; manual pages are rendered.

  --out DIR             where the files go; default: target/dist
  --target TRIPLE       default: the machine's architecture with musl
  --check-reproducible  build everything a second time, in another folder, and compare the checksums

Needs a Rust toolchain, musl-gcc (Debian: musl-tools) and umoci; cargo-deb, cargo-generate-rpm and
cargo-cyclonedx are installed below target/ by cargo. Root for the trial of the .deb and the image;
without, they are skipped and named.
Exit status: 0 everything was built and tried; 1 an error; 2 wrong usage.
TEXT
}

die() { echo "release.sh: $1" >&2 && exit "${2:-1}"; }

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
version="" out="" target="$(uname -m)-unknown-linux-musl" twice=""
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$(realpath -m -- "${2:?--out needs a folder}") && shift 2 ;;
        --target) target=${2:?--target needs a triple} && shift 2 ;;
        --check-reproducible) twice=yes && shift ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && die "\`$1\` is not a known flag" 2 ;;
        *) [ -z "$version" ] || die "one VERSION, not also \`$1\`" 2
           version=$1 && shift ;;
    esac
done
[ -n "$version" ] || { usage >&2 && die "a VERSION is needed, such as 0.1.0" 2; }
actual=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
[ "$version" = "$actual" ] || die "the workspace's version is $actual, not $version (Cargo.toml)" 2
case $target in
    *-musl) ;;
    *) die "--target: \`$target\` makes no static binaries: expected a musl target" 2 ;;
esac
for tool in musl-gcc:musl-tools umoci:umoci jq:jq; do
    command -v "${tool%%:*}" >/dev/null || die "needs ${tool%%:*}: sudo apt-get install -y ${tool##*:}"
done

cd -- "$root"
out=${out:-${CARGO_TARGET_DIR:-$root/target}/dist}
tools=${CARGO_TARGET_DIR:-$root/target}/release-tools
architecture=${target%%-*}
# Every file has the time of the commit, so that a second build makes the same bytes.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
rustup target list --installed | grep -qx "$target" || rustup target add "$target"

install_tools() {
    local crate
    for crate in cargo-deb cargo-generate-rpm cargo-cyclonedx; do
        [ -x "$tools/bin/$crate" ] || cargo install --quiet --locked --debug --root "$tools" "$crate"
    done
    PATH=$tools/bin:$PATH
}

# build TARGET_DIR OUT: builds everything into OUT.
build() {
    local build=$1 out=$2 stage=$1/stage name=sparring-$version-$target
    local binaries=$build/$target/release program
    rm -rf -- "$stage" "$out"
    local files=$stage/$name
    local man=$files/share/man/man1
    mkdir -p -- "$files"/bin "$man" "$files"/share/{bash-completion/completions,zsh/site-functions} \
        "$files"/share/{fish/vendor_completions.d,doc/sparring} "$out"
    # Paths of this machine do not get into the binaries.
    local registry=${CARGO_HOME:-$HOME/.cargo}
    RUSTFLAGS="--remap-path-prefix=$registry=/cargo --remap-path-prefix=$root=/sparring --remap-path-prefix=$build=/build" \
        CFLAGS="-ffile-prefix-map=$registry=/cargo -ffile-prefix-map=$build=/build" \
        CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_TARGET_DIR=$build \
        cargo build --release --locked --no-default-features --target "$target" \
        -p sparring-server -p sparring-loadgen
    for program in sparring-server sparring-loadgen; do
        ! ldd "$binaries/$program" 2>/dev/null | grep -q '=>' || die "$program is not static"
        cp -- "$binaries/$program" "$files/bin/"
    done
    "$files/bin/sparring-loadgen" man --out "$man"
    "$files/bin/sparring-server" --man >"$man/sparring-server.1"
    complete sparring-loadgen "$files/bin/sparring-loadgen completions" "$files/share"
    complete sparring-server "$files/bin/sparring-server --completions" "$files/share"
    cp -- LICENSE* README.md CHANGELOG.md scripts/deploy/sparring-server.service \
        "$files/share/doc/sparring/"

    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -C "$stage" -c "$name" | gzip -9n >"$out/$name.tar.gz"
    # The packages take their files from this folder: Cargo.toml of the generator names them.
    rm -rf -- target/package-files && mkdir -p target && cp -r -- "$files" target/package-files
    gzip -9n target/package-files/share/man/man1/*
    CARGO_TARGET_DIR=$build cargo deb --quiet --no-build --no-strip --locked --target "$target" \
        -p sparring-loadgen --output "$out/sparring_$version-1_$(debian_name).deb"
    CARGO_TARGET_DIR=$build cargo generate-rpm --target "$target" -p loadgen \
        --output "$out/sparring-$version-1.$architecture.rpm"
    image "$stage/image" "$files/bin" "$out/$name.oci.tar"
    for program in server loadgen; do
        cargo cyclonedx --quiet --format json --no-default-features --target "$target" \
            --manifest-path "$program/Cargo.toml" --override-filename bom
        # Its serial number is random, and its paths are this machine's.
        jq -S 'del(.serialNumber) | .metadata.timestamp = (env.SOURCE_DATE_EPOCH | tonumber | todate)' \
            "$program/bom.json" | sed "s|file://$root|file:///sparring|g; s|$root|/sparring|g" \
            >"$out/sparring-$version.sparring-$program.cdx.json"
        find . -name bom.json -not -path './target/*' -delete
    done
    (cd -- "$out" && sha256sum -- * >SHA256SUMS)
}

# complete PROGRAM COMMAND SHARE: its completions, as each shell names them.
complete() {
    $2 bash >"$3/bash-completion/completions/$1"
    $2 zsh >"$3/zsh/site-functions/_$1"
    $2 fish >"$3/fish/vendor_completions.d/$1.fish"
}

debian_name() {
    case $architecture in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) echo "$architecture" ;;
    esac
}

# image SCRATCH PROGRAMS ARCHIVE: an OCI image without a base, made without a daemon.
image() {
    local scratch=$1 programs=$2 archive=$3 created
    created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    local tag=$scratch/layout:$version
    rm -rf -- "$scratch" && mkdir -p -- "$scratch/files"
    cp -- "$programs/sparring-server" "$programs/sparring-loadgen" "$scratch/files/"
    touch -d "@$SOURCE_DATE_EPOCH" -- "$scratch/files" "$scratch/files"/*
    umoci init --layout "$scratch/layout"
    umoci new --image "$tag"
    umoci insert --image "$tag" --history.created "$created" "$scratch/files" /
    umoci config --image "$tag" --created "$created" --history.created "$created" \
        --os linux --architecture "$(debian_name)" --config.user 65534:65534 \
        --config.exposedports 9001/tcp --config.exposedports 9100/tcp --config.stopsignal SIGTERM \
        --config.entrypoint /sparring-server --config.cmd --listen --config.cmd 0.0.0.0:9001 \
        --config.cmd --admin --config.cmd 0.0.0.0:9100
    umoci gc --layout "$scratch/layout"
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -C "$scratch/layout" -cf "$archive" .
}

# measure BIN [COMMAND...]: the two programs in BIN, started by the command, measure something; the
# server ends on SIGTERM.
measure() {
    local bin=$1 log port server
    shift
    log=$(mktemp)
    "$@" "$bin/sparring-server" --listen 127.0.0.1:0 --threads 1 >"$log" 2>&1 &
    server=$!
    for _ in $(seq 100); do grep -q '^listening' "$log" && break; sleep 0.1; done
    port=$(sed -n 's|^listening on ws://127.0.0.1:\([0-9]*\)/.*|\1|p' "$log")
    "$@" "$bin/sparring-loadgen" run "ws://127.0.0.1:$port/" -c 8 -n 10000 --settle 0 -w 0 |
        grep 'echoes ' || { cat "$log" && kill "$server" && die "the programs measure nothing"; }
    kill "$server" && wait "$server"
    rm -f -- "$log"
}

# try OUT: installs and runs what was built.
try() {
    local out=$1 scratch page
    scratch=$(mktemp -d)
    tar -C "$scratch" -xzf "$out/sparring-$version-$target.tar.gz"
    echo "-- the archive" && measure "$scratch/sparring-$version-$target/bin"
    if command -v groff >/dev/null; then
        for page in "$scratch/sparring-$version-$target/share/man/man1"/*.1; do
            [ -z "$(groff -man -ww -Wbreak -Kutf8 -Tutf8 "$page" 2>&1 >/dev/null)" ] || die "$page: a warning"
        done
    else
        echo "skipped: the manual pages: no groff"
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "skipped: the .deb and the image: they are tried by root" && return
    fi
    if command -v dpkg >/dev/null; then
        echo "-- the .deb"
        mkdir -p -- "$scratch/system/var/lib/dpkg" && : >"$scratch/system/var/lib/dpkg/status"
        dpkg --root="$scratch/system" --log=/dev/null --force-script-chrootless -i "$out"/*.deb
        measure /usr/bin chroot "$scratch/system"
        dpkg --root="$scratch/system" --log=/dev/null --purge sparring
        [ ! -e "$scratch/system/usr/bin/sparring-server" ] || die "the .deb leaves files behind"
    else
        echo "skipped: the .deb: no dpkg"
    fi
    echo "-- the image"
    mkdir -- "$scratch/layout" && tar -C "$scratch/layout" -xf "$out/sparring-$version-$target.oci.tar"
    umoci unpack --image "$scratch/layout:$version" "$scratch/bundle"
    measure "" chroot --userspec=65534:65534 "$scratch/bundle/rootfs"
    rm -rf -- "$scratch"
}

install_tools
base=${CARGO_TARGET_DIR:-$root/target}
build "$base/release-build" "$out"
try "$out"
if [ -n "$twice" ]; then
    build "$base/release-build-again" "$base/release-build-again/dist"
    diff "$out/SHA256SUMS" "$base/release-build-again/dist/SHA256SUMS" ||
        die "a second build made other files"
    echo "reproducible: a second build made the same files"
fi
(cd -- "$out" && ls -l -- *)
