//! Secrets: named in the file, kept elsewhere, and never printed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::finding::{Findings, Place};
use super::setting::{Value, Written, quoted};

/// The shortest secret that a key is made of, in bytes: as long as what it becomes.
const MIN_KEY: usize = 32;

/// The longest secret, in bytes. Nobody has a longer one, but somebody has a path to a wrong file.
const MAX_SECRET: u64 = 64 * 1024;

/// Where a secret is: `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Secret {
    Env(String),
    File(String),
}

impl Value for Secret {
    // The value is never part of what is said: it may be the secret itself, written in the wrong place.
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let secret = written.value.as_table().and_then(|table| {
            let mut entries = table.iter();
            let (name, value) = entries.next()?;
            match (name.get_ref().as_ref(), value.get_ref(), entries.next()) {
                ("env", DeValue::String(name), None) => Some(Self::Env(name.clone().into_owned())),
                ("file", DeValue::String(path), None) => {
                    Some(Self::File(path.clone().into_owned()))
                }
                _ => None,
            }
        });
        if secret.is_none() {
            findings.value(
                &written.place,
                format!("is not the place of a secret; write {}", Self::kind()),
            );
        }
        secret
    }

    fn kind() -> String {
        "`{ env = \"NAME\" }` or `{ file = \"path\" }`".to_owned()
    }

    fn schema() -> Json {
        let one = |name: &str| {
            json!({
                "type": "object",
                "properties": { name: { "type": "string" } },
                "required": [name],
                "additionalProperties": false,
            })
        };
        json!({ "oneOf": [one("env"), one("file")] })
    }
}

/// Makes a key of 256 bits of a secret: the SHA-256 of its bytes, so that a text of any length will do.
pub(super) fn key(secret: &Secret, place: &Place, findings: &mut Findings) -> Option<[u8; 32]> {
    let bytes = match read(secret) {
        Ok(bytes) if bytes.len() >= MIN_KEY => bytes,
        Ok(bytes) => {
            let wrong = format!(
                "the secret has {} bytes; it needs {MIN_KEY} or more",
                bytes.len()
            );
            findings.value(place, wrong);
            return None;
        }
        Err(wrong) => {
            findings.value(place, wrong);
            return None;
        }
    };
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    Some(key)
}

/// A secret as it is.
pub(super) fn bytes(secret: &Secret, place: &Place, findings: &mut Findings) -> Option<Vec<u8>> {
    read(secret)
        .map_err(|wrong| findings.value(place, wrong))
        .ok()
}

/// A secret that is a text.
pub(super) fn text(secret: &Secret, place: &Place, findings: &mut Findings) -> Option<String> {
    let text = String::from_utf8(bytes(secret, place, findings)?);
    text.map_err(|_| findings.value(place, "the secret is not UTF-8".to_owned()))
        .ok()
}

/// The bytes of a secret. One newline at the end of a file is not part of it.
pub(super) fn read(secret: &Secret) -> Result<Vec<u8>, String> {
    match secret {
        Secret::Env(name) => read_env(name),
        Secret::File(path) => {
            let mut bytes = read_file(Path::new(path))
                .map_err(|error| format!("the file {} cannot be read: {error}", quoted(path)))?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
            }
            Ok(bytes)
        }
    }
}

fn read_env(name: &str) -> Result<Vec<u8>, String> {
    // The standard library panics at names that no environment can have.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!(
            "{} is no name of an environment variable",
            quoted(name)
        ));
    }
    match std::env::var_os(name) {
        Some(value) => Ok(value.into_encoded_bytes()),
        None => Err(format!(
            "the environment variable {} is not set",
            quoted(name)
        )),
    }
}

pub(super) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    read_at_most(path, MAX_SECRET)
}

pub(super) fn read_at_most(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::other(format!(
            "it has more than {most} bytes"
        )));
    }
    Ok(bytes)
}
