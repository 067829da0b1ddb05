//! Health checks: each over a connection of its own, of the protocol that requests take.

use super::*;
use crate::protocol::StatusSet;

fn checked(origin: &Origin, protocol: UpstreamProtocol) -> Arc<Upstream> {
    let mut config = config(vec![origin.endpoint()]);
    config.protocol = protocol;
    config.health = Some(HealthCheck {
        path: "/healthz?deep".parse().unwrap(),
        host: None,
        interval: Duration::from_millis(50),
        timeout: FOREVER,
        healthy: 1,
        unhealthy: 1,
        status: StatusSet::parse(&["2xx"]).unwrap(),
    });
    Upstream::new(&config)
}

async fn becomes(upstream: &Upstream, standing: Standing) {
    let target = Arc::clone(&upstream.balance.targets()[0]);
    let change = async {
        while target.standing() != standing {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let changed = timeout(FOREVER, change).await;
    changed.unwrap_or_else(|_| panic!("it does not become {standing:?}"));
}

#[tokio::test]
async fn an_address_is_as_well_as_its_checks_say_over_http_1() {
    let origin = Origin::bind().await;
    let upstream = checked(&origin, UpstreamProtocol::Http1);
    for (status, standing) in [
        ("503 Service Unavailable", Standing::Unhealthy),
        ("204 No Content", Standing::Usable),
    ] {
        let mut socket = origin.accept().await;
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
        }
        assert!(read.starts_with(b"GET /healthz?deep HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 {status}\r\n\r\n");
        socket.write_all(answer.as_bytes()).await.unwrap();
        drop(socket);
        becomes(&upstream, standing).await;
    }
}

#[tokio::test]
async fn an_address_is_as_well_as_its_checks_say_over_http_2() {
    let origin = Origin::bind().await;
    let upstream = checked(&origin, UpstreamProtocol::Http2);
    for (status, standing) in [(503, Standing::Unhealthy), (204, Standing::Usable)] {
        let mut server = h2::server::handshake(origin.accept().await).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        let address = origin.0.local_addr().unwrap();
        assert_eq!(
            request.uri().to_string(),
            format!("http://{address}/healthz?deep")
        );
        assert_eq!(request.method(), http::Method::GET);
        let response = Response::builder().status(status).body(()).unwrap();
        respond.send_response(response, true).unwrap();
        // No request shares its connection, which ends with it.
        let end = timeout(FOREVER, server.accept()).await.expect("the end");
        assert!(end.is_none_or(|end| end.is_err()));
        becomes(&upstream, standing).await;
    }
    // It takes connections, and does not speak HTTP/2 on them any more.
    let mut socket = origin.accept().await;
    socket
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    becomes(&upstream, Standing::Unhealthy).await;
    assert_eq!(upstream.endpoint_stats()[0].since.checks_failed, 2);
}
