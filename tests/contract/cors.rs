//! What pages of other origins may do and read. The page's browser is played by the letter of the Fetch standard
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::collections::BTreeSet;

use crate::reloading::reloaded;
use crate::support::{
    Act, Answer, Gateway, Headers, Problem, Request, Setup, ToyUpstream, payment,
};

const SHOP: Page = Page::of("https://shop.example.com");
const OTHER: Page = Page::of("https://other.example.net");
const STRANGER: Page = Page::of("https://evil.example");

/// Two origins may call the route.
const TWO: &str = "cors = { origins = [\"https://shop.example.com\", \"https://*.example.net\"] }";

/// A page in a browser that has not been here before.
#[derive(Clone, Copy)]
struct Page {
    origin: &'static str,
    /// Whether it sends cookies along (`credentials: "include"`).
    credentials: bool,
}

/// Why a page does not get an answer.
#[derive(Debug, PartialEq, Eq)]
enum Blocked {
    /// The preflight did not allow the request: it was not sent.
    Preflight,
    /// It was sent, and its answer is kept from the page.
    Answer,
}

/// What a page sees of an answer.
#[derive(Debug)]
struct Seen {
    status: u16,
    headers: Headers,
    body: Vec<u8>,
}

impl Page {
    const fn of(origin: &'static str) -> Self {
        Self {
            origin,
            credentials: false,
        }
    }

    const fn with_credentials(self) -> Self {
        Self {
            credentials: true,
            ..self
        }
    }

    /// `fetch` (sections 4.1, "HTTP-network-or-cache fetch", and 4.8, "CORS-preflight fetch").
    async fn fetch(&self, gateway: &Gateway, request: &Request) -> Result<Seen, Blocked> {
        let unsafe_names = unsafe_names(request);
        let is_simple = ["GET", "HEAD", "POST"].contains(&request.method.as_str());
        if !is_simple || !unsafe_names.is_empty() {
            let names: Vec<&str> = unsafe_names.iter().map(String::as_str).collect();
            let answer = gateway.send(&self.preflight(request, &names)).await;
            if !self.allows(&answer, request, is_simple, &names) {
                return Err(Blocked::Preflight);
            }
        }
        let request = request.clone().header("Origin", self.origin);
        let answer = gateway.send(&request).await;
        if !self.may_read(&answer) {
            return Err(Blocked::Answer);
        }
        Ok(self.filtered(answer))
    }

    fn preflight(&self, request: &Request, names: &[&str]) -> Request {
        let asks = Request::new("OPTIONS", &request.target)
            .header("Accept", "*/*")
            .header("Origin", self.origin)
            .header("Access-Control-Request-Method", &request.method);
        match names {
            [] => asks,
            names => asks.header("Access-Control-Request-Headers", &names.join(",")),
        }
    }

    /// What is to be made of a preflight's answer.
    fn allows(&self, answer: &Answer, request: &Request, is_simple: bool, names: &[&str]) -> bool {
        let methods = listed(answer, "Access-Control-Allow-Methods");
        let headers = listed(answer, "Access-Control-Allow-Headers");
        let star = |list: &BTreeSet<String>| list.contains("*") && !self.credentials;
        let method = request.method.to_ascii_lowercase();
        let has_method = methods.contains(&method) || is_simple || star(&methods);
        let has_header = |name: &&str| {
            // `Authorization` is never meant by a star.
            headers.contains(*name) || star(&headers) && *name != "authorization"
        };
        self.may_read(answer)
            && (200..300).contains(&answer.status)
            && has_method
            && names.iter().all(has_header)
    }

    /// The CORS check.
    fn may_read(&self, answer: &Answer) -> bool {
        match answer.headers.all("Access-Control-Allow-Origin")[..] {
            ["*"] if !self.credentials => true,
            [origin] if origin == self.origin => {
                let allowed = answer.headers.all("Access-Control-Allow-Credentials");
                !self.credentials || allowed == ["true"]
            }
            _ => false,
        }
    }

    /// The CORS filtered response.
    fn filtered(&self, answer: Answer) -> Seen {
        const SAFE: [&str; 7] = [
            "cache-control",
            "content-language",
            "content-length",
            "content-type",
            "expires",
            "last-modified",
            "pragma",
        ];
        let exposed = listed(&answer, "Access-Control-Expose-Headers");
        let all = exposed.contains("*") && !self.credentials;
        let mut headers = answer.headers;
        headers.0.retain(|(name, _)| {
            let name = name.to_ascii_lowercase();
            all || SAFE.contains(&name.as_str()) || exposed.contains(&name)
        });
        Seen {
            status: answer.status,
            headers,
            body: answer.body,
        }
    }
}

/// The request headers that a page may not set unasked.
fn unsafe_names(request: &Request) -> BTreeSet<String> {
    const SIMPLE: [&str; 3] = [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
    ];
    let lines = request.headers.0.iter();
    let names = lines.filter_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let is_safe = match name.as_str() {
            "accept" | "accept-language" | "content-language" => true,
            "content-type" => SIMPLE.contains(&value.as_str()),
            _ => false,
        };
        (!is_safe).then_some(name)
    });
    names.collect()
}

fn listed(answer: &Answer, name: &str) -> BTreeSet<String> {
    let lines = answer.headers.all(name).join(",");
    let names = lines
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty()).collect()
}

impl Seen {
    /// Asserts the status and what the page can read of what became of its request.
    #[track_caller]
    fn is(&self, status: u16, idempotency_status: &str) {
        let said = self.headers.first("Idempotency-Status");
        assert_eq!(
            (self.status, said),
            (status, Some(idempotency_status)),
            "{self:?}"
        );
        let replayed = (idempotency_status == "replayed").then_some("true");
        assert_eq!(self.headers.first("Idempotent-Replayed"), replayed);
    }

    fn problem(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem");
        body["type"].as_str().expect("a type").to_owned()
    }
}

/// An upstream that lets the pages of one origin read its answers.
fn upstream_for(origin: &'static str) -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream.always(move |request| {
        let headers = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", "X-Charge"),
            ("Vary", "Accept"),
            ("X-Charge", "7"),
            ("Location", "/v1/payments/7"),
        ];
        match request.method.as_str() {
            "OPTIONS" => Act::respond(403, &[], "no preflight for the upstream"),
            _ => Act::respond(201, &headers, "paid"),
        }
    });
    upstream
}

#[tokio::test]
async fn a_page_reads_its_answer_its_replay_and_refusals() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).route(TWO).start().await;
    let pays = payment("page");
    SHOP.fetch(&gateway, &pays)
        .await
        .unwrap()
        .is(201, "executed");
    SHOP.fetch(&gateway, &pays)
        .await
        .unwrap()
        .is(201, "replayed");
    let other = pays.clone().body("{\"amount\":200}");
    let refused = SHOP.fetch(&gateway, &other).await.unwrap();
    refused.is(422, "refused");
    assert_eq!(refused.problem(), "urn:oncegate:problem:key-reused");
    let unscoped = pays.clone().without("Authorization");
    let refused = SHOP.fetch(&gateway, &unscoped).await.unwrap();
    refused.is(401, "refused");
    assert!(refused.headers.first("WWW-Authenticate").is_some());
    let broken = pays.clone().key("a b");
    let refused = SHOP.fetch(&gateway, &broken).await.unwrap();
    assert_eq!(refused.problem(), "urn:oncegate:problem:key-invalid");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_page_reads_a_refusal_and_when_to_try_again() {
    let upstream = ToyUpstream::start();
    upstream.next(Act::hang());
    let gateway = Setup::payments(&upstream).route(TWO).start().await;
    let first = gateway.spawn(&payment("slow"));
    upstream.next_request().await;
    let refused = SHOP.fetch(&gateway, &payment("slow")).await.unwrap();
    refused.is(409, "refused");
    assert!(
        refused.headers.first("Retry-After").is_some(),
        "{refused:?}"
    );
    first.abort();
}

#[tokio::test]
async fn an_answer_recorded_for_one_origin_is_replayed_to_another_under_its_own_name() {
    let upstream = upstream_for("https://shop.example.com");
    let gateway = Setup::payments(&upstream).route(TWO).start().await;
    let executed = SHOP.fetch(&gateway, &payment("two")).await.unwrap();
    executed.is(201, "executed");
    assert_eq!(executed.headers.first("Location"), Some("/v1/payments/7"));
    // What the upstream says about pages is not what is said.
    assert_eq!(executed.headers.first("X-Charge"), None);
    for _ in 0..2 {
        let replayed = OTHER.fetch(&gateway, &payment("two")).await.unwrap();
        replayed.is(201, "replayed");
        assert_eq!(replayed.body, b"paid");
    }
    let raw = gateway
        .send(&payment("two").header("Origin", OTHER.origin))
        .await;
    raw.is(201, "replayed");
    assert_eq!(raw.headers.all("Vary"), ["Accept", "Origin"]);
    assert_eq!(
        raw.headers.all("Access-Control-Allow-Origin"),
        [OTHER.origin]
    );
    assert_eq!(upstream.requests().len(), 1, "no preflight went further");
}

#[tokio::test]
async fn a_page_that_may_not_call_a_route_is_stopped_by_its_browser_alone() {
    let upstream = upstream_for("*");
    let gateway = Setup::payments(&upstream).route(TWO).start().await;
    let blocked = STRANGER.fetch(&gateway, &payment("k")).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Preflight);
    assert_eq!(upstream.requests().len(), 0);
    // Whoever sends it all the same is served; what is no browser asks nobody.
    for origin in ["https://evil.example", "null"] {
        let sent = payment(origin).key("k").header("Origin", origin);
        let answer = gateway.send(&sent).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.headers.all("Access-Control-Allow-Origin"), [""; 0]);
        assert_eq!(answer.headers.all("Vary"), ["Accept", "Origin"]);
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_preflight_is_answered_for_the_route_that_would_have_the_request() {
    let upstream = upstream_for("*");
    let gateway = Setup::payments(&upstream)
        .route(TWO)
        .rest_passes()
        .start()
        .await;
    let asks = |method: &str| {
        SHOP.preflight(&payment("k"), &[])
            .without("Access-Control-Request-Method")
            .header("Access-Control-Request-Method", method)
    };
    let answer = gateway.send(&asks("POST")).await;
    assert_eq!(answer.status, 204);
    for (name, expected) in [
        ("Access-Control-Allow-Origin", "https://shop.example.com"),
        ("Access-Control-Allow-Methods", "POST"),
        (
            "Access-Control-Allow-Headers",
            "content-type, authorization, idempotency-key",
        ),
        ("Access-Control-Max-Age", "600"),
        (
            "Vary",
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        ),
    ] {
        assert_eq!(answer.headers.all(name), [expected], "{name}");
    }
    assert_eq!(answer.header("Idempotency-Status"), None);
    assert_eq!(upstream.requests().len(), 0);
    // These are the other route's, which leaves them to the upstream; and so is what is no preflight.
    for request in [
        asks("PUT"),
        asks("no method"),
        asks("POST").without("Access-Control-Request-Method"),
        asks("POST").without("Origin"),
    ] {
        assert_eq!(gateway.send(&request).await.status, 403, "{request:?}");
    }
    let metrics = gateway.metrics().await;
    let unrouted = |reason| metrics.value("oncegate_unrouted_total", &[("reason", reason)]);
    assert_eq!(unrouted("preflight"), Some(1.0));
    assert_eq!(metrics.all_decisions("pay"), 0);
    assert_eq!(metrics.decisions("rest", "passthrough"), 4);
    let claims = metrics.value("oncegate_claims_total", &[("result", "acquired")]);
    assert_eq!(claims, Some(0.0));
}

#[tokio::test]
async fn where_a_route_says_nothing_of_origins_all_is_as_the_upstream_has_it() {
    let upstream = upstream_for("https://shop.example.com");
    let gateway = Setup::payments(&upstream).start().await;
    for _ in 0..2 {
        let sent = payment("plain").header("Origin", OTHER.origin);
        let answer = gateway.send(&sent).await;
        assert_eq!(
            answer.headers.all("Access-Control-Allow-Origin"),
            ["https://shop.example.com"]
        );
        assert_eq!(
            answer.headers.all("Access-Control-Expose-Headers"),
            ["X-Charge"]
        );
        assert_eq!(answer.headers.all("Vary"), ["Accept"]);
    }
    let refused = gateway
        .send(&payment("a b").header("Origin", SHOP.origin))
        .await;
    refused.refuses(Problem::KEY_INVALID);
    assert_eq!(refused.header("Access-Control-Allow-Origin"), None);
    assert_eq!(refused.header("Vary"), None);
}

#[tokio::test]
async fn what_is_refused_before_any_route_is_asked_is_said_to_no_page() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("cors = { origins = [\"*\"] }")
        .start()
        .await;
    for (request, status) in [
        (Request::get("/nowhere"), 404),
        (payment("k").header("Host", "a b"), 400),
    ] {
        let answer = gateway.send(&request.header("Origin", SHOP.origin)).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("Access-Control-Allow-Origin"), None);
    }
}

#[tokio::test]
async fn every_page_may_read_what_is_for_all_and_no_cache_keeps_two_of_it() {
    let upstream = upstream_for("https://shop.example.com");
    let gateway = Setup::payments(&upstream)
        .route("cors = { origins = [\"*\"], headers = [\"X-Trace\"], expose = [\"*\"], max_age = \"1h\" }")
        .start()
        .await;
    let traced = payment("k").header("X-Trace", "1");
    let seen = STRANGER.fetch(&gateway, &traced).await.unwrap();
    seen.is(201, "executed");
    assert_eq!(seen.headers.first("X-Charge"), Some("7"));
    let with_cookies = STRANGER.with_credentials().fetch(&gateway, &traced).await;
    assert_eq!(with_cookies.unwrap_err(), Blocked::Preflight);
    let unknown = payment("k").header("X-Other", "1");
    let blocked = STRANGER.fetch(&gateway, &unknown).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Preflight);
    let plain = gateway.send(&traced).await;
    assert_eq!(plain.headers.all("Access-Control-Allow-Origin"), ["*"]);
    assert_eq!(plain.headers.all("Vary"), ["Accept"]);
}

#[tokio::test]
async fn a_page_sends_cookies_where_its_origin_may_and_not_elsewhere() {
    let upstream = ToyUpstream::start();
    let with = |credentials: &str| {
        let line = format!(
            "cors = {{ origins = [\"https://shop.example.com\"], credentials = {credentials} }}"
        );
        Setup::payments(&upstream).route(&line)
    };
    let gateway = with("true").start().await;
    let page = SHOP.with_credentials();
    page.fetch(&gateway, &payment("a"))
        .await
        .unwrap()
        .is(201, "executed");
    page.fetch(&gateway, &payment("a"))
        .await
        .unwrap()
        .is(201, "replayed");
    let gateway = with("false").start().await;
    let blocked = page.fetch(&gateway, &payment("b")).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Preflight);
}

#[tokio::test]
async fn what_the_defaults_say_of_pages_a_route_can_extend_and_take_back() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .route("cors.max_age = \"5s\"")
        .another_route("name = \"own\"\npath = \"/own\"\nmode = \"pass\"\ncors.origins = []")
        .another_route("name = \"rest\"\npath = \"/*\"\nmode = \"observe\"");
    let toml = setup.toml().replace(
        "[defaults]\n",
        "[defaults]\ncors = { origins = [\"https://shop.example.com\"], credentials = true }\n",
    );
    let gateway = Gateway::start(&toml).await;
    let asks = SHOP.preflight(&payment("k"), &[]);
    let answer = gateway.send(&asks).await;
    assert_eq!(answer.header("Access-Control-Max-Age"), Some("5"));
    assert_eq!(
        answer.header("Access-Control-Allow-Credentials"),
        Some("true")
    );
    let seen = SHOP.fetch(&gateway, &Request::get("/elsewhere")).await;
    assert_eq!(seen.unwrap().headers.first("Idempotency-Status"), None);
    let blocked = SHOP.fetch(&gateway, &Request::get("/own")).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Answer);
}

#[tokio::test]
async fn a_page_gets_a_key_where_it_may_use_one() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"issued\"")
        .route(TWO)
        .start()
        .await;
    let ask = Request::post("/.well-known/oncegate/keys").auth("Bearer alice");
    let seen = SHOP.fetch(&gateway, &ask).await.unwrap();
    assert_eq!(seen.status, 201);
    let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
    let pays = payment(body["key"].as_str().expect("a key"));
    SHOP.fetch(&gateway, &pays)
        .await
        .unwrap()
        .is(201, "executed");
    let blocked = STRANGER.fetch(&gateway, &ask).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Preflight);
}

#[tokio::test]
async fn who_may_call_a_route_changes_with_a_reload() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.clone().route(TWO).start().await;
    SHOP.fetch(&gateway, &payment("a"))
        .await
        .unwrap()
        .is(201, "executed");
    let changed = setup.route("cors.origins = [\"https://other.example.net\"]");
    gateway.rewrite(&changed.toml());
    gateway.sighup();
    reloaded(&gateway, "done", 1.0).await;
    let blocked = SHOP.fetch(&gateway, &payment("a")).await;
    assert_eq!(blocked.unwrap_err(), Blocked::Preflight);
    OTHER
        .fetch(&gateway, &payment("a"))
        .await
        .unwrap()
        .is(201, "replayed");
}
