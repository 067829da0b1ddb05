//! `[[listeners]]`: addresses, certificates that cannot be used, and whose word is taken.

use std::path::Path;
use std::process::Command;

use oncegate::config::{ClientAuth, Config, ListenAddress};
use tempfile::TempDir;

use crate::{SMALLEST, faults_with, parse};

#[test]
fn sockets_of_both_kinds_are_listened_on_and_none_twice() {
    let text = "listeners = [{ address = \"unix:/run/a.sock\", mode = \"0600\" }, { address = \"[::]:0\" }]\n";
    let config = parse(&format!("{text}{SMALLEST}")).config;
    assert_eq!(
        config.listeners[0].address,
        ListenAddress::Unix("/run/a.sock".into())
    );
    assert_eq!(
        (config.listeners[0].mode, config.listeners[1].mode),
        (0o600, 0o660)
    );
    let said = faults_with("listeners = [{ address = \"unix:/a\" }, { address = \"unix:/a\" }]");
    assert_eq!(
        said,
        "f:1:51: listeners[1].address: unix:/a is taken by `listeners[0].address` = \"unix:/a\"; choose another path \
         for one of them; see also f:1:26"
    );
}

#[test]
fn what_does_not_fit_a_listener_is_said() {
    for (listener, said) in [
        (
            "mode = \"0600\"",
            "listeners[0].mode: is for listeners on `unix:`",
        ),
        (
            "address = \"unix:/a\", mode = \"0999\"",
            "write permissions as three octal digits",
        ),
        (
            "address = \"unix:///run/a\"",
            "did you mean \"unix:/run/a\"?",
        ),
        (
            "proxy_protocol = \"required\"",
            "needs `trusted_proxies`, the networks",
        ),
        ("proxy_protocol = \"v2\"", "write \"off\" or \"required\""),
        (
            "address = \"unix:/a\", proxy_protocol = \"required\", trusted_proxies = [\"10.0.0.0/8\"]",
            "needs `trusted_proxies = [\"unix:\"]`",
        ),
        (
            "trusted_proxies = [\"unix:\"]",
            "is for listeners on `unix:`; name networks",
        ),
        (
            "trusted_proxies = [\"10.1.2.3/8\"]",
            "the network is 10.0.0.0/8",
        ),
        (
            "trusted_proxies = [\"example.com\"]",
            "write an IP address, a network such as",
        ),
        ("tls = {}", "tls.certificates: is required"),
        (
            "tls = { certificates = [] }",
            "there has to be one certificate",
        ),
    ] {
        let faults = faults_with(&format!("listeners = [{{ {listener} }}]"));
        assert!(faults.contains(said), "{listener}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{listener}: {faults}");
    }
}

/// Makes what the tests below need: two certificates, one that has expired, keys in several forms.
const FILES: &str = r#"
set -e
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
san="-addext subjectAltName=DNS:a.example"
openssl req -x509 $new $san -keyout a.key -out a.pem -days 2 -subj /CN=a
openssl req -x509 $new $san -keyout b.key -out b.pem -days 2 -subj /CN=b
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\ncopy_extensions=copy
[p]\ncommonName=supplied\n' >ca.conf
touch index
echo 01 >serial
between() {
  openssl req $new $san -keyout $1.key -out $1.csr -subj /CN=$1
  openssl ca -batch -notext -config ca.conf -selfsign -keyfile $1.key -in $1.csr -out $1.pem -startdate $2 -enddate $3
}
between old 20200101000000Z 20200102000000Z
between new 20950101000000Z 20960101000000Z
openssl req -x509 $new -keyout nameless.key -out nameless.pem -days 2 -subj /CN=nameless
openssl pkey -in a.key -aes128 -passout pass:hunter2 -out locked.key
openssl genrsa -traditional -out rsa.key 1024 || openssl genrsa -out rsa.key 1024
printf -- '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' >broken.pem
printf 'a text\n' >text.pem
openssl req $new -keyout v1.key -out v1.csr -subj /CN=v1
openssl x509 -req -in v1.csr -signkey v1.key -days 2 -out v1.pem
"#;

fn files() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Command::new("sh")
        .args(["-c", FILES])
        .current_dir(folder.path())
        .output()
        .expect("a shell");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    folder
}

fn with(folder: &Path, cert: &str, key: &str, more: &str) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let more = more.replace("FOLDER", &folder.display().to_string());
    let (cert, key) = (path(cert), path(key));
    format!(
        "listeners = [{{ tls = {{ certificates = [{{ cert = {cert:?}, key = {{ file = {key:?} }} }}]{more} }} }}]\n\
         {SMALLEST}"
    )
}

#[test]
fn certificates_that_cannot_be_used_are_said_and_no_key_is_printed() {
    let folder = files();
    for (cert, key, more, setting, said) in [
        (
            "missing.pem",
            "a.key",
            "",
            "[0].cert",
            "missing.pem\" cannot be read: No such file",
        ),
        (
            "v1.pem",
            "v1.key",
            "",
            "[0].cert",
            "v1.pem\" holds no certificate that can be used: the certificate is of X.509 version 1, and has to be of \
             version 3",
        ),
        (
            "a.pem",
            "missing.key",
            "",
            "[0].key",
            "missing.key\" cannot be read",
        ),
        (
            "text.pem",
            "a.key",
            "",
            "[0].cert",
            "holds no certificate in PEM",
        ),
        (
            "broken.pem",
            "a.key",
            "",
            "[0].cert",
            "holds no certificate that can be read",
        ),
        (
            "a.key",
            "a.key",
            "",
            "[0].cert",
            "holds no certificate in PEM",
        ),
        (
            "a.pem",
            "text.pem",
            "",
            "[0].key",
            "holds no private key in PEM",
        ),
        ("a.pem", "locked.key", "", "[0].key", "without a passphrase"),
        (
            "a.pem",
            "rsa.key",
            "",
            "[0].key",
            "of a kind that is not supported",
        ),
        (
            "a.pem",
            "b.key",
            "",
            "[0].key",
            "is not the key of the first certificate in",
        ),
        (
            "a.pem",
            "a.key",
            ", client_auth = \"required\"",
            "client_auth",
            "needs `client_ca`",
        ),
        (
            "a.pem",
            "a.key",
            ", client_ca = \"FOLDER/none\"",
            "client_ca",
            "cannot be read",
        ),
        (
            "a.pem",
            "a.key",
            ", client_ca = \"FOLDER/text.pem\"",
            "client_ca",
            "holds no certificate in PEM",
        ),
        (
            "a.pem",
            "a.key",
            ", client_ca = \"FOLDER/broken.pem\"",
            "client_ca",
            "cannot be an authority",
        ),
    ] {
        let text = with(folder.path(), cert, key, more);
        let faults = Config::parse(&text, "f").expect_err(said).to_string();
        assert!(
            faults.contains(said) && faults.contains(setting),
            "{cert} {key} {more}: {faults}"
        );
        assert_eq!(faults.lines().count(), 1, "{faults}");
        assert!(!faults.contains("PRIVATE"), "{faults}");
    }
}

#[test]
fn operators_whose_token_goes_over_a_network_are_warned() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "a-token-of-the-operator").expect("a file");
    for (address, expected) in [
        ("0.0.0.0:9090", 1),
        ("[::]:9090", 1),
        ("127.0.0.1:9090", 0),
        ("[::1]:9090", 0),
    ] {
        let admin = format!("[admin]\naddress = {address:?}\ntoken = {{ file = {file:?} }}\n");
        let warnings = parse(&format!("{admin}{SMALLEST}")).warnings;
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), expected, "{address}: {said:?}");
        assert!(
            said.iter().all(|said| said.contains("plain HTTP")),
            "{said:?}"
        );
    }
}

#[test]
fn certificates_that_clients_will_refuse_deserve_a_look() {
    let folder = files();
    let warnings = |cert: &str, key: &str| {
        let loaded = parse(&with(folder.path(), cert, key, ""));
        let warnings: Vec<String> = loaded
            .warnings
            .iter()
            .map(oncegate::config::Finding::text)
            .collect();
        warnings.join("\n")
    };
    assert!(!warnings("a.pem", "a.key").contains("certificate"));
    for (name, said) in [
        ("old", "has expired: clients refuse it"),
        ("new", "is not valid yet: clients refuse it"),
        ("nameless", "names no host in its subjectAltName"),
    ] {
        let warnings = warnings(&format!("{name}.pem"), &format!("{name}.key"));
        assert!(warnings.contains(said), "{name}: {warnings}");
    }
}

#[test]
fn who_names_authorities_of_clients_wants_certificates_unless_it_is_said_otherwise() {
    let folder = files();
    for (more, expected) in [
        ("", ClientAuth::None),
        (", client_ca = \"FOLDER/a.pem\"", ClientAuth::Required),
        (
            ", client_ca = \"FOLDER/a.pem\", client_auth = \"optional\"",
            ClientAuth::Optional,
        ),
        (
            ", client_ca = \"FOLDER/a.pem\", client_auth = \"none\"",
            ClientAuth::None,
        ),
    ] {
        let config = parse(&with(folder.path(), "a.pem", "a.key", more)).config;
        let tls = config.listeners[0].tls.as_ref().expect("TLS");
        assert_eq!(tls.client_auth, expected, "{more}");
    }
}
