//! Somebody who holds the admin token.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Answer, Connection, Request};
use super::gateway::Gateway;
use super::setup::Setup;
use super::until;

/// An operator. The token stands in a file of his.
pub struct Operator {
    token: String,
    file: PathBuf,
    _directory: TempDir,
}

impl Operator {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let token = "a-token-of-the-operator".to_owned();
        std::fs::write(&file, format!("{token}\n")).expect("a file");
        Self {
            token,
            file,
            _directory: directory,
        }
    }

    /// The gateway with this configuration, where he may see and settle records.
    pub async fn starts(&self, setup: &Setup) -> Gateway {
        setup.clone().operators(&self.file).start().await
    }

    /// Where the token is.
    pub fn token_file(&self) -> &Path {
        &self.file
    }

    /// Asks for a page below `/v1/records`.
    pub async fn get(&self, gateway: &Gateway, path: &str) -> Answer {
        let request = Request::get(&format!("/v1/records{path}"));
        self.ask(gateway, request).await
    }

    /// Says something to one.
    pub async fn post(&self, gateway: &Gateway, path: &str, body: &Value) -> Answer {
        let request = Request::post(&format!("/v1/records{path}")).body(body.to_string());
        self.ask(gateway, request).await
    }

    async fn ask(&self, gateway: &Gateway, request: Request) -> Answer {
        let request = request.auth(&format!("Bearer {}", self.token));
        Connection::open(gateway.admin).await.send(&request).await
    }

    /// The records without a known outcome, once there are so many.
    pub async fn unresolved(&self, gateway: &Gateway, number: usize) -> Vec<Value> {
        until(&format!("{number} unresolved records"), || async {
            let page = self.get(gateway, "").await.json();
            let records = page["records"].as_array().expect("a list").clone();
            (records.len() == number).then_some(records)
        })
        .await
    }

    /// What is known of a payment by Alice under this key.
    pub async fn finds(&self, gateway: &Gateway, key: &str) -> Answer {
        let known = json!({ "route": "pay", "key": key, "scope": ["Bearer alice"] });
        self.post(gateway, "/lookup", &known).await
    }

    /// Says so of a record as it was seen.
    pub async fn says(&self, gateway: &Gateway, record: &Value, act: &str, more: Value) -> Answer {
        let mut word = json!({
            "version": record["version"],
            "actor": "ada",
            "reason": "seen at the bank",
        });
        let (Some(word_of), Some(more)) = (word.as_object_mut(), more.as_object()) else {
            panic!("a word is an object");
        };
        word_of.extend(more.clone());
        let id = record["id"].as_str().expect("an id");
        self.post(gateway, &format!("/{id}/{act}"), &word).await
    }

    /// The lines of the audit log.
    pub fn audit(gateway: &Gateway) -> Vec<Value> {
        let file = gateway.directory().join("audit.log");
        let text = std::fs::read_to_string(file).expect("an audit log");
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("lines of JSON")
    }

    /// `oncegate records` with these arguments.
    pub fn runs(&self, gateway: &Gateway, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_oncegate"))
            .arg("records")
            .args(arguments)
            .args(["--admin", &format!("http://{}", gateway.admin)])
            .arg("--token-file")
            .arg(&self.file)
            .output()
            .expect("the binary")
    }
}
