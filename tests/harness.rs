//! The harness itself: what the other tests rely on in the scripted upstream and the raw client.

mod support;

use support::{
    Act, Connection, Gate, Http2, Metrics, Problem, RefusedPort, Request, Setup, ToyUpstream,
    payment,
};

async fn connect(upstream: &ToyUpstream) -> Connection {
    let address = upstream
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    Connection::open(address).await
}

#[tokio::test]
async fn the_upstream_charges_each_request_it_received_whole_and_numbers_them() {
    let upstream = ToyUpstream::start();
    let mut client = connect(&upstream).await;
    let first = client.send(&payment("a")).await;
    let second = client.send(&payment("b")).await;
    assert_eq!(
        (first.status, first.text().as_str()),
        (201, "{\"charge\":\"ch_1\"}")
    );
    assert_eq!(second.text(), "{\"charge\":\"ch_2\"}");
    assert_eq!(upstream.charges(), 2);
    let seen = upstream.next_request().await;
    assert_eq!(
        (seen.number, seen.connection, seen.key().as_str()),
        (1, 1, "a")
    );
    assert_eq!(seen.body, b"{\"amount\":100}");
    assert_eq!(upstream.next_request().await.key(), "b");
    assert_eq!(upstream.charges_by_key()["a"], 1);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_no_charge() {
    let upstream = ToyUpstream::start();
    let mut client = connect(&upstream).await;
    client
        .write(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    client.hang_up();
    connect(&upstream).await.send(&payment("a")).await;
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn acts_are_played_in_their_order_and_then_the_script() {
    let upstream = ToyUpstream::start();
    upstream
        .next(Act::respond(200, &[("X-A", "1")], "one"))
        .next(Act::stream(200, &[]).chunk("two").chunk("!").last_chunk())
        .always(|request| Act::respond(404, &[], format!("no {}", request.target)));
    let mut client = connect(&upstream).await;
    let one = client.send(&Request::get("/x")).await;
    assert_eq!((one.header("x-a"), one.text().as_str()), (Some("1"), "one"));
    assert_eq!(client.send(&Request::get("/x")).await.text(), "two!");
    assert_eq!(client.send(&Request::get("/y")).await.text(), "no /y");
}

#[tokio::test]
async fn a_gate_holds_an_answer_until_it_is_opened() {
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.next(Act::respond(200, &[], "late").after(&gate));
    let mut client = connect(&upstream).await;
    client.write_request(&payment("a")).await;
    upstream.next_request().await;
    tokio::select! {
        biased;
        answer = client.answer() => panic!("not yet: {answer:?}"),
        () = std::future::ready(()) => gate.open(),
    }
    assert_eq!(client.answer().await.text(), "late");
}

#[tokio::test]
async fn broken_connections_are_broken_where_the_script_says() {
    let upstream = ToyUpstream::start();
    upstream.next(Act::reset_after_reading());
    assert!(
        connect(&upstream)
            .await
            .try_send(&payment("a"))
            .await
            .is_none()
    );
    assert_eq!(upstream.charges(), 1);
    upstream.next(Act::reset_before_reading());
    assert!(
        connect(&upstream)
            .await
            .try_send(&payment("a"))
            .await
            .is_none()
    );
    assert_eq!(upstream.charges(), 1);
    upstream.next(Act::truncate(200, 10, b"half"));
    let cut = connect(&upstream).await.send(&payment("a")).await;
    assert_eq!((cut.complete, cut.text().as_str()), (false, "half"));
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn an_echo_comes_piece_by_piece() {
    let upstream = ToyUpstream::start();
    upstream.next(Act::echo());
    let mut client = connect(&upstream).await;
    client
        .write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        .await;
    assert_eq!(client.answer_head().await.0, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(&b"ab"[..]));
    client.write(b"1\r\nc\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some(&b"c"[..]));
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn idle_connections_are_closed_on_demand() {
    let upstream = ToyUpstream::start();
    let mut client = connect(&upstream).await;
    client.send(&payment("a")).await;
    upstream.close_idle_connections().await;
    client.closed().await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_refused_port_refuses_until_it_listens() {
    let port = RefusedPort::take();
    let address = port
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    assert!(Connection::try_open(address).await.is_err());
    let upstream = port.listen();
    assert_eq!(
        connect(&upstream).await.send(&payment("a")).await.status,
        201
    );
}

#[tokio::test]
async fn the_http2_client_sends_streams_on_one_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("one connection");
        let echo = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            let version = format!("{:?}", request.version());
            let answer = http::Response::builder().header("X-Version", version);
            async move { answer.body(request.into_body()) }
        });
        hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .serve_connection(hyper_util::rt::TokioIo::new(stream), echo)
            .await
    });
    let client = Http2::open(address).await;
    let (a, b) = (payment("a"), payment("b").body("other"));
    let (first, second) = tokio::join!(client.send(&a), client.send(&b));
    assert_eq!(first.header("X-Version"), Some("HTTP/2.0"));
    assert_eq!(
        (first.text(), second.text().as_str()),
        ("{\"amount\":100}".to_owned(), "other")
    );
}

#[test]
fn metrics_are_found_by_name_and_labels() {
    let metrics = Metrics::parse(
        "# HELP oncegate_decisions_total x\n\
         oncegate_decisions_total{decision=\"executed\",route=\"pay\"} 2\n\
         oncegate_decisions_total{decision=\"replayed\",route=\"pay\"} 3\n\
         oncegate_store_up 1\n",
    );
    assert_eq!(metrics.decisions("pay", "executed"), 2);
    assert_eq!(metrics.all_decisions("pay"), 5);
    assert_eq!(metrics.value("oncegate_store_up", &[]), Some(1.0));
    assert_eq!(metrics.value("oncegate_nothing", &[]), None);
}

#[test]
fn a_setup_is_a_configuration() {
    let setup = Setup::payments_at("http://127.0.0.1:1")
        .limits("max_late = 1")
        .route("wait = \"1s\"")
        .rest_passes();
    let table: toml::Table = toml::from_str(&setup.toml()).expect("TOML");
    assert_eq!(table["routes"].as_array().map(Vec::len), Some(2));
    assert_eq!(table["routes"][0]["path"].as_str(), Some("/v1/payments"));
    assert_eq!(table["limits"]["max_late"].as_integer(), Some(1));
}

#[test]
fn no_two_problems_share_a_slug() {
    let all = [
        Problem::KEY_MISSING,
        Problem::KEY_INVALID,
        Problem::SCOPE_MISSING,
        Problem::KEY_REUSED,
        Problem::IN_PROGRESS,
        Problem::OUTCOME_UNKNOWN,
        Problem::EXPIRED,
        Problem::NOT_STORED,
        Problem::UNREACHABLE,
        Problem::TIMEOUT,
        Problem::FAILED,
        Problem::BODY_TOO_LARGE,
        Problem::STORE_UNAVAILABLE,
        Problem::OVERLOADED,
        Problem::NO_ROUTE,
        Problem::BAD_REQUEST,
    ];
    let mut slugs: Vec<_> = all.iter().map(|problem| problem.slug).collect();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), all.len());
}
