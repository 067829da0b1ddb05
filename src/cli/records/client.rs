//! How the admin API is asked.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::At;
use super::print;
use crate::cli::Failure;
use crate::cli::healthcheck::reachable;
use crate::config::Config;

/// How long one answer may take; the gateway ends a connection after 10 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// The longest answer, in bytes: a page of a thousand records, or one with a recorded body.
const MAX_ANSWER: usize = 64 << 20;

/// The admin API of one gateway.
pub struct Client {
    /// `HOST:PORT`.
    authority: String,
    token: String,
}

impl Client {
    /// Of the gateway that these arguments name.
    pub fn at(at: &At) -> Result<Self, Failure> {
        if let Some(config) = &at.config {
            let config = Config::load(config)?.config;
            let operators = config.operators.ok_or_else(|| {
                let message = "the configuration has no `admin.token`, so its gateway shows no records; set one, \
                               `[admin] token = { file = \"PATH\" }`, and start the gateway anew";
                Failure::NoToken(message.to_owned())
            })?;
            return Ok(Self {
                authority: reachable(config.admin).to_string(),
                token: String::from_utf8_lossy(&operators.token).into_owned(),
            });
        }
        let (url, token_file) = (
            at.admin.as_deref().unwrap_or_default(),
            at.token_file.as_deref(),
        );
        Ok(Self {
            authority: authority(url)?,
            token: token(token_file.unwrap_or(Path::new("")))?,
        })
    }

    /// Asks for a page below `/v1/records`.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Json, Failure> {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let target = format!("/v1/records{path}?{}", query.join("&"));
        self.ask(Method::GET, &target, Bytes::new()).await
    }

    /// Says something to one.
    pub async fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        let target = format!("/v1/records{path}");
        self.ask(Method::POST, &target, body.to_string().into())
            .await
    }

    async fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<Json, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.failed(&error))?;
        let (status, bytes) = timeout(PATIENCE, self.exchange(request))
            .await
            .map_err(|_| self.failed(&"no answer in time"))?
            .map_err(|error| self.failed(&error))?;
        let answer: Json = serde_json::from_slice(&bytes).unwrap_or(Json::Null);
        match status {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND if answer.is_null() => Err(Failure::Records(format!(
                "the gateway at {} shows no records: it runs without `admin.token`, or is an older version",
                self.authority
            ))),
            status => Err(Failure::Records(print::refusal(status, &answer))),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let bytes = body.collect().await?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::Records(format!(
            "the admin API at {} cannot be asked: {why}",
            self.authority
        ))
    }
}

fn authority(url: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::Records(format!(
            "{url:?} is no admin address; write http://HOST:PORT"
        ))
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if uri.scheme_str().is_some_and(|scheme| scheme != "http") || authority.port().is_none() {
        return Err(wrong());
    }
    Ok(authority.to_string())
}

fn token(path: &Path) -> Result<String, Failure> {
    let token = std::fs::read_to_string(path).map_err(|error| {
        Failure::Records(format!(
            "the token {} cannot be read: {error}",
            path.display()
        ))
    })?;
    Ok(token.trim_end_matches(['\r', '\n']).to_owned())
}
