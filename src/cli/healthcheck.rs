//! `oncegate healthcheck`: asks the gateway of a configuration for its `/readyz`, for images without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::config::Config;

/// How long the gateway may take to answer. Container runtimes give up after 30 s by default.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(path: &Path) -> Result<(), Failure> {
    let address = reachable(Config::load(path)?.config.admin);
    match timeout(PATIENCE, ready(address)).await {
        Ok(Ok(StatusCode::OK)) => Ok(()),
        Ok(Ok(status)) => Err(Failure::Unhealthy(format!("{address} answers {status}"))),
        Ok(Err(error)) => Err(Failure::Unhealthy(format!(
            "{address} cannot be asked: {error}"
        ))),
        Err(_) => Err(Failure::Unhealthy(format!("{address} does not answer"))),
    }
}

/// Where a listener of this machine can be reached: one on all addresses also by the loopback.
pub(super) fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

async fn ready(
    address: SocketAddr,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header(header::HOST, address.to_string());
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    connection.abort();
    Ok(response.status())
}
