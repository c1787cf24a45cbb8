//! Certificates and keys as users have them: the server names an unusable file and the command that
//! converts it.

mod program;

use std::path::PathBuf;
use std::process::{Command, Output};

use program::{Program, run};

const LISTEN: [&str; 2] = ["--listen", "wss://127.0.0.1:0"];
/// Password of every encrypted file here.
const PASSWORD: &str = "pass:secret";

/// Folder of a test, in which commands run; removed on drop.
struct Folder(PathBuf);

impl Folder {
    /// Returns `None`, and prints a line, where openssl is missing.
    fn new(name: &str) -> Option<Self> {
        if let Err(error) = Command::new("openssl").arg("version").output() {
            println!("skipped: no openssl here: {error}");
            return None;
        }
        let path =
            std::env::temp_dir().join(format!("sparring-keys-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Some(Self(path))
    }

    /// Runs a command line in the folder.
    fn sh(&self, line: &str) -> Output {
        Command::new("sh").args(["-c", line]).current_dir(&self.0).output().expect("a shell")
    }

    /// Runs a command line in the folder; it must succeed.
    fn make(&self, line: &str) {
        let output = self.sh(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("text").to_owned()
    }

    /// Makes a key that is supported, `key.pem`, and a certificate for it, `cert.pem`.
    fn make_pair(&self) {
        self.make("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem");
        self.make("openssl req -x509 -key key.pem -subj /CN=localhost -days 2 -out cert.pem");
    }

    /// Returns the one line with which the server refuses the two files.
    fn refusal(&self, certificate: &str, key: &str) -> String {
        let (certificate, key) = (self.file(certificate), self.file(key));
        let output = run(&[&LISTEN[..], &["--tls-cert", &certificate, "--tls-key", &key]].concat());
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{certificate} {key}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    fn serves(&self, certificate: &str, key: &str) {
        let (certificate, key) = (self.file(certificate), self.file(key));
        drop(Program::start_with(&LISTEN, &["--tls-cert", &certificate, "--tls-key", &key]));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the first command that a message names.
fn command_of(message: &str) -> &str {
    message.split('`').nth(1).unwrap_or_else(|| panic!("no command: {message}"))
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
}

#[test]
fn the_named_command_makes_a_key_usable() {
    let Some(folder) = Folder::new("convert") else { return };
    folder.make_pair();
    folder
        .make(&format!("openssl pkcs8 -topk8 -in key.pem -passout {PASSWORD} -out encrypted.pem"));
    folder.make(&format!("openssl ec -aes256 -in key.pem -passout {PASSWORD} -out legacy.pem"));
    folder.make("openssl pkey -in key.pem -outform DER -out key.der");
    folder.make("openssl ec -in key.pem -outform DER -out sec1.der");
    folder.make(&format!(
        "openssl pkcs8 -topk8 -in key.pem -passout {PASSWORD} -outform DER -out encrypted.der"
    ));
    folder.make(&format!(
        "openssl pkcs12 -export -in cert.pem -inkey key.pem -passout {PASSWORD} -out both.p12"
    ));
    folder.make("cp key.der \"it's a key.der\"");
    for (key, found) in [
        ("encrypted.pem", "an encrypted private key"),
        ("legacy.pem", "an encrypted private key"),
        ("key.der", "a private key in DER"),
        ("sec1.der", "a private key in DER"),
        ("it's a key.der", "a private key in DER"),
        ("encrypted.der", "an encrypted private key in DER"),
        ("both.p12", "a PKCS #12 container"),
    ] {
        let message = folder.refusal("cert.pem", key);
        says(&message, &["--tls-key", key, found, "openssl"]);
        let command = command_of(&message);
        let out = command.rsplit(' ').next().expect("the new file");
        assert_ne!(folder.file(key), folder.file(out), "{message}");
        // Otherwise the password comes from the terminal.
        let is_secret =
            key.starts_with("encrypted") || key.ends_with(".p12") || key == "legacy.pem";
        let password = if is_secret { format!(" -passin {PASSWORD}") } else { String::new() };
        std::fs::create_dir_all(folder.0.join("new")).expect("a folder");
        folder.make(&format!("cd new && {command}{password}"));
        folder.serves("cert.pem", &format!("new/{out}"));
    }
}

#[test]
fn the_named_command_makes_a_certificate_usable() {
    let Some(folder) = Folder::new("certificates") else { return };
    folder.make_pair();
    folder.make("openssl x509 -in cert.pem -outform DER -out cert.der");
    folder.make("openssl x509 -in cert.pem -trustout -out trusted.pem");
    folder.make("openssl crl2pkcs7 -nocrl -certfile cert.pem -out cert.p7b");
    folder.make("openssl crl2pkcs7 -nocrl -certfile cert.pem -outform DER -out cert.p7c");
    folder.make(&format!(
        "openssl pkcs12 -export -in cert.pem -inkey key.pem -passout {PASSWORD} -out both.p12"
    ));
    for (certificate, found) in [
        ("cert.der", "a certificate in DER"),
        ("trusted.pem", "openssl's own"),
        ("cert.p7b", "PKCS #7"),
        ("cert.p7c", "PKCS #7"),
        ("both.p12", "a PKCS #12 container"),
    ] {
        let message = folder.refusal(certificate, "key.pem");
        says(&message, &["--tls-cert", certificate, found]);
        let password = if certificate.ends_with(".p12") {
            format!(" -passin {PASSWORD}")
        } else {
            String::new()
        };
        std::fs::create_dir_all(folder.0.join("new")).expect("a folder");
        folder.make(&format!("cd new && {}{password}", command_of(&message)));
        folder.serves("new/certificate.pem", "key.pem");
    }
    folder.make("openssl req -new -key key.pem -subj /CN=localhost -out request.pem");
    folder.make("openssl req -in request.pem -outform DER -out request.der");
    for request in ["request.pem", "request.der"] {
        says(
            &folder.refusal(request, "key.pem"),
            &["--tls-cert", request, "certificate request", "sign it"],
        );
    }
    // Without extensions a certificate has version 1.
    folder.make("openssl x509 -req -in request.pem -signkey key.pem -days 2 -out old.pem -extfile /dev/null");
    let message = folder.refusal("old.pem", "key.pem");
    says(&message, &["--tls-cert", "old.pem", "version 3"]);
    folder.make(&format!("cd new && {}", command_of(&message)));
    folder.serves("new/certificate.pem", "key.pem");
}

#[test]
fn keys_without_a_conversion_are_named() {
    let Some(folder) = Folder::new("kinds") else { return };
    folder.make_pair();
    let no_conversion = "no conversion exists";
    for (name, make, found) in [
        (
            "rsa.pem",
            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "an RSA key of 1024 bits",
        ),
        ("rsa1.pem", "openssl genrsa -traditional 1024", "an RSA key of 1024 bits"),
        (
            "exponent.pem",
            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3",
            "a public exponent",
        ),
        (
            "pss.pem",
            "openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "for PSS signatures alone",
        ),
        (
            "p521.pem",
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            "secp521r1 (P-521)",
        ),
        ("p521-sec1.pem", "openssl ecparam -name secp521r1 -genkey -noout", "secp521r1 (P-521)"),
        ("k1.pem", "openssl ecparam -name secp256k1 -genkey -noout", "secp256k1"),
        ("brain.pem", "openssl ecparam -name brainpoolP256r1 -genkey -noout", "brainpoolP256r1"),
        ("odd.pem", "openssl ecparam -name brainpoolP320r1 -genkey -noout", "another curve"),
        ("ed448.pem", "openssl genpkey -algorithm ED448", "an Ed448 key"),
        ("x25519.pem", "openssl genpkey -algorithm X25519", "an X25519 key"),
        ("dsa.pem", "openssl dsaparam -genkey -noout 1024 2>/dev/null", "a DSA key"),
    ] {
        folder.make(&format!("{make} > {name}"));
        let message = folder.refusal("cert.pem", name);
        says(&message, &["--tls-key", name, found, no_conversion, "openssl genpkey"]);
    }
    folder.make("openssl dsa -in dsa.pem -outform DER -out dsa.der");
    says(&folder.refusal("cert.pem", "dsa.der"), &["a DSA key", no_conversion]);
    folder.make("openssl pkey -in dsa.pem -traditional -out dsa-old.pem");
    says(&folder.refusal("cert.pem", "dsa-old.pem"), &["a DSA key", no_conversion]);
    folder.make("openssl ecparam -name prime256v1 -out parameters.pem");
    let message = folder.refusal("cert.pem", "parameters.pem");
    says(&message, &["parameters alone", "create one"]);
    folder.make("openssl pkey -in key.pem -pubout -out public.pem");
    says(&folder.refusal("cert.pem", "public.pem"), &["a public key alone"]);
    folder.make(
        "openssl ecparam -name prime256v1 -genkey -noout -param_enc explicit -out explicit.pem",
    );
    let message = folder.refusal("cert.pem", "explicit.pem");
    says(&message, &["spells its curve out", "named_curve"]);
    std::fs::create_dir_all(folder.0.join("new")).expect("a folder");
    folder.make(&format!("cd new && {}", command_of(&message)));
    folder.make("openssl req -x509 -key new/key.pem -subj /CN=localhost -days 2 -out named.pem");
    folder.serves("named.pem", "new/key.pem");
}

#[test]
fn mismatched_files_are_reported() {
    let Some(folder) = Folder::new("pairs") else { return };
    folder.make_pair();
    says(&folder.refusal("key.pem", "cert.pem"), &["--tls-cert", "--tls-key", "exchange the two"]);
    says(
        &folder.refusal("key.pem", "key.pem"),
        &["--tls-cert", "a private key and no certificate"],
    );
    says(
        &folder.refusal("cert.pem", "cert.pem"),
        &["--tls-key", "a certificate and no private key"],
    );
    folder.make("openssl genpkey -algorithm ED25519 -out other.pem");
    let message = folder.refusal("cert.pem", "other.pem");
    says(
        &message,
        &["does not belong", "cert.pem", "other.pem", "openssl x509 -in", "openssl pkey -in"],
    );
    folder.make("openssl req -x509 -key other.pem -subj /CN=authority -days 2 -out authority.pem");
    folder.make("cat authority.pem cert.pem > chain.pem");
    says(
        &folder.refusal("chain.pem", "key.pem"),
        &["does not belong", "certificate 2 of that file", "first"],
    );
    // Both in one file are usable, and so is a key next to the parameters of its curve.
    folder.make("cat cert.pem key.pem > both.pem");
    folder.serves("both.pem", "both.pem");
    folder.make("openssl ecparam -name prime256v1 -genkey -out with-parameters.pem");
    folder.make(
        "openssl req -x509 -key with-parameters.pem -subj /CN=localhost -days 2 -out third.pem",
    );
    folder.serves("third.pem", "with-parameters.pem");
    let pem = std::fs::read_to_string(folder.0.join("key.pem")).expect("the key");
    let utf_16: Vec<u8> = pem.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, content) in [("mark", format!("\u{feff}{pem}").into_bytes()), ("wide", utf_16)] {
        std::fs::write(folder.0.join(name), content).expect("a file");
        says(&folder.refusal("cert.pem", name), &["--tls-key", name, "save it as ASCII"]);
    }
    for (name, content) in
        [("empty", ""), ("text", "nothing\n"), ("half", "-----BEGIN PRIVATE KEY-----\nMIG")]
    {
        std::fs::write(folder.0.join(name), content).expect("a file");
        says(&folder.refusal("cert.pem", name), &["--tls-key", name, "holds"]);
        says(&folder.refusal(name, "key.pem"), &["--tls-cert", name, "holds"]);
    }
}
