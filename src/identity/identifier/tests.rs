use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::identity::{BodyRule, KeyFormat, KeySource, ScopeSource, key, scope};

const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn identifier() -> Identifier {
    Identifier::new(&id_key(), "payments")
}

/// The bytes 0 to 31.
fn id_key() -> IdKeyBytes {
    let mut bytes = 0..;
    IdKeyBytes(std::array::from_fn(|_| bytes.next().unwrap()))
}

fn key_of(text: &str) -> Key {
    let name = HeaderName::from_static("idempotency-key");
    let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(text).unwrap())]);
    key::find(&[KeySource::Header(name)], &KeyFormat::Any, &headers)
        .unwrap()
        .unwrap()
}

fn scope_of(lines: &[(HeaderName, &str)]) -> Scope {
    let mut sources: Vec<_> = lines
        .iter()
        .map(|(name, _)| ScopeSource::Header(name.clone()))
        .collect();
    sources.dedup();
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    scope::find(&sources, &headers).unwrap()
}

fn rules(body: BodyRule) -> FingerprintRules {
    FingerprintRules {
        body,
        query: true,
        host: true,
        headers: vec![],
        ignore: vec![],
    }
}

/// A POST to `/pay` of `api.example.com` without a query.
struct Request {
    rules: FingerprintRules,
    method: Method,
    host: Option<&'static str>,
    path: &'static str,
    query: Option<&'static str>,
    headers: HeaderMap,
    body: &'static [u8],
}

impl Request {
    fn with(change: impl FnOnce(&mut Self)) -> Fingerprint {
        let mut request = Self {
            rules: rules(BodyRule::Bytes),
            method: Method::POST,
            host: Some("api.example.com"),
            path: "/pay",
            query: None,
            headers: HeaderMap::new(),
            body: b"",
        };
        change(&mut request);
        let parts = RequestParts {
            method: &request.method,
            host: request.host,
            path: request.path,
            query: request.query,
            headers: &request.headers,
        };
        identifier().fingerprint(&request.rules, &parts, request.body)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed by another implementation of HKDF, HMAC and AES-GCM. A change here orphans every stored record.
#[test]
fn what_is_stored_never_changes() {
    let identifier = identifier();
    let scope = scope_of(&[(AUTHORIZATION, "Bearer t"), (TENANT, "acme")]);
    let id = identifier.record_id("create-payment", &scope, &key_of("\"order-17\""));
    assert_eq!(
        hex(&id.0),
        "c17b1f6bd39b84dfbdc8949e3f53b86ecfc63cd848e2e806daf0f94acbdcf201"
    );
    assert_eq!(identifier.key_ref(&id).to_string(), "0c989227ce48");
    assert_eq!(
        identifier.scope_name(&scope),
        "authorization#b85d845a3be8, x-tenant=acme"
    );
    assert_eq!(
        hex(&Identifier::check_value(&id_key())),
        "7e0f2f95c046942a31857898acde2c23"
    );

    let reference = Reference {
        key: "order-17".into(),
        method: "POST".into(),
        path: "/v1/payments".into(),
        scope: "x-tenant=acme".into(),
    };
    let sealed = identifier.seal_reference(&id, &reference, [1; 12]);
    assert_eq!(hex(&sealed), SEALED);
    assert_eq!(identifier.open_reference(&id, &sealed), Ok(reference));

    let fingerprint = Request::with(|request| {
        request.rules.body = BodyRule::Json;
        request.rules.headers = vec![CONTENT_TYPE];
        request
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.path = "/v1/payments";
        request.body = br#"{"to":"x", "amount":1.0}"#;
    });
    assert_eq!(
        hex(&fingerprint.0),
        "dd9458bf9d95fc0e61faedbbad8499fc523fb627619a252bb3cb9312384c4f2f"
    );
}

/// Computed by another implementation as well, one for each form of the body.
#[test]
fn fingerprints_never_change() {
    let of = |change: fn(&mut Request)| {
        let fingerprint = Request::with(|request| {
            request.body = b"{";
            change(request);
        });
        hex(&fingerprint.0)
    };
    assert_eq!(
        of(|_| {}),
        "242ec9ea99821455c2984d89093e13d56b1ff8c12a57da00ba23c63405141c4e"
    );
    assert_eq!(
        of(|request| request.rules.body = BodyRule::Json),
        "5c22fdfc91aa13721688e00476d876a9b725d31f7705bedcccaa0ffe2dd5eefd"
    );
    assert_eq!(
        of(|request| {
            request.rules = FingerprintRules {
                query: false,
                host: false,
                ..rules(BodyRule::None)
            };
        }),
        "44f4802940b4e48cac2304f0bcb8ef0267d813996d404fdd5862ae5536ea701f"
    );
}

const SEALED: &str = "0101010101010101010101010155bc7dea07091d890862ca54f541fb73b41c5f6ca073ee7e13fc60fbede7c5daa27b9f1f32e2dcb85cd2fdc62bdc1135db4460e82aecd8e839";

#[test]
fn ids_differ_when_a_boundary_shifts() {
    let none = scope_of(&[]);
    let id =
        |route: &str, scope: &Scope, key: &str| identifier().record_id(route, scope, &key_of(key));
    assert_ne!(id("ab", &none, "c"), id("a", &none, "bc"));

    let tenant = |value: &str| scope_of(&[(TENANT, value)]);
    assert_ne!(id("r", &tenant("ab"), "c"), id("r", &tenant("a"), "bc"));
    assert_ne!(id("r", &none, "acme"), id("r", &tenant("acme"), "acme"));
    let two = scope_of(&[(TENANT, "a"), (TENANT, "b")]);
    assert_ne!(id("r", &two, "c"), id("r", &tenant("a, b"), "c"));
    assert_ne!(id("r", &two, "c"), id("r", &tenant("ab"), "c"));

    let in_namespace = |namespace: &str, route: &str| {
        Identifier::new(&id_key(), namespace).record_id(route, &none, &key_of("k"))
    };
    assert_ne!(in_namespace("ab", "c"), in_namespace("a", "bc"));
    assert_ne!(in_namespace("", "abc"), in_namespace("abc", ""));
}

#[test]
fn a_value_of_another_header_is_another_scope() {
    let user = HeaderName::from_static("x-user");
    let id = |scope: &Scope| identifier().record_id("r", scope, &key_of("k"));
    assert_ne!(
        id(&scope_of(&[(TENANT, "7")])),
        id(&scope_of(&[(user, "7")]))
    );
}

#[test]
fn another_id_key_changes_everything() {
    let other = Identifier::new(&IdKeyBytes([0; 32]), "payments");
    let (scope, key) = (scope_of(&[(AUTHORIZATION, "Bearer t")]), key_of("k"));
    let id = identifier().record_id("r", &scope, &key);
    assert_ne!(other.record_id("r", &scope, &key), id);
    assert_ne!(other.key_ref(&id), identifier().key_ref(&id));
    assert_ne!(other.scope_name(&scope), identifier().scope_name(&scope));
    assert_ne!(
        Identifier::check_value(&IdKeyBytes([0; 32])),
        Identifier::check_value(&id_key())
    );
}

#[test]
fn everything_that_the_rules_count_changes_the_fingerprint() {
    let plain = Request::with(|_| {});
    for (what, changed) in [
        ("method", Request::with(|r| r.method = Method::PUT)),
        ("path", Request::with(|r| r.path = "/pay/")),
        ("path's case", Request::with(|r| r.path = "/Pay")),
        ("host", Request::with(|r| r.host = Some("api.example.org"))),
        ("no host", Request::with(|r| r.host = None)),
        ("query", Request::with(|r| r.query = Some("dry_run=1"))),
        ("empty query", Request::with(|r| r.query = Some(""))),
        ("body", Request::with(|r| r.body = b"{}")),
    ] {
        assert_ne!(changed, plain, "{what}");
    }
    for same in [
        "API.example.COM",
        "api.example.com:8443",
        "api.example.com.",
    ] {
        assert_eq!(Request::with(|r| r.host = Some(same)), plain, "{same}");
    }
    let address = |host| Request::with(|r| r.host = Some(host));
    assert_eq!(address("[::1]:80"), address("[::1]"));
    assert_ne!(address("[::1]"), address("[::2]"));
    assert_ne!(
        Request::with(|r| (r.path, r.query) = ("/pay", Some("a"))),
        Request::with(|r| (r.path, r.query) = ("/pa", Some("ya")))
    );
}

#[test]
fn what_the_rules_leave_out_does_not_count() {
    let lax = |change: fn(&mut Request)| {
        Request::with(|request| {
            request.rules = FingerprintRules {
                query: false,
                host: false,
                ..rules(BodyRule::None)
            };
            change(request);
        })
    };
    let plain = lax(|_| {});
    assert_eq!(lax(|r| r.host = Some("other.example")), plain);
    assert_eq!(lax(|r| r.query = Some("a=b")), plain);
    assert_eq!(lax(|r| r.body = b"other"), plain);
    assert_ne!(lax(|r| r.path = "/other"), plain);
}

#[test]
fn an_absent_header_is_not_an_empty_one_and_every_line_counts() {
    let of = |lines: &[&'static str]| {
        Request::with(|request| {
            request.rules.headers = vec![TENANT, CONTENT_TYPE];
            for line in lines {
                request
                    .headers
                    .append(TENANT, HeaderValue::from_static(line));
            }
        })
    };
    let cases = [
        of(&[]),
        of(&[""]),
        of(&["", ""]),
        of(&["a"]),
        of(&["a", "b"]),
        of(&["ab"]),
    ];
    for (at, one) in cases.iter().enumerate() {
        assert!(!cases[at + 1..].contains(one), "case {at}");
    }
}

#[test]
fn json_bodies_count_by_value_and_all_others_by_their_bytes() {
    let json =
        |body: &'static [u8]| Request::with(|r| (r.rules.body, r.body) = (BodyRule::Json, body));
    assert_eq!(
        json(br#"{"a":1,"b":[2.50]}"#),
        json(b"{ \"b\": [25e-1], \"a\": 1 }\n")
    );
    assert_ne!(
        json(br#"{"amount":9007199254740992}"#),
        json(br#"{"amount":9007199254740993}"#)
    );
    assert_ne!(json(br#"{"a":1,"a":2}"#), json(br#"{"a":2,"a":1}"#));
    assert_ne!(json(br#"{"a":1,"a":2}"#), json(br#"{"a":2}"#));
    assert_ne!(json(br#"{"a":1,"a":2}"#), json(br#"{"a":1, "a":2}"#));
    assert_ne!(json(b""), json(b"null"));
    assert_ne!(json(b"\xef\xbb\xbf1"), json(b"1"));
    // A canonical body under one rule is not the same bytes under the other.
    assert_ne!(json(b"1"), Request::with(|r| r.body = b"1"));
    assert_ne!(json(b"{"), Request::with(|r| r.body = b"{"));
}

fn observed(body: BodyRule, pieces: &[&[u8]]) -> Fingerprint {
    let headers = HeaderMap::new();
    let parts = RequestParts {
        method: &Method::POST,
        host: Some("api.example.com"),
        path: "/pay",
        query: None,
        headers: &headers,
    };
    let rules = rules(body);
    let mut under_way = identifier().observed_fingerprint(&rules, &parts);
    if body == BodyRule::Json {
        return under_way.finish_json(&rules, &pieces.concat());
    }
    for piece in pieces {
        under_way.piece(piece);
    }
    under_way.finish()
}

#[test]
fn a_body_that_passes_by_has_one_fingerprint_however_it_is_cut() {
    let whole = observed(BodyRule::Bytes, &[b"amount=100"]);
    assert_eq!(whole, observed(BodyRule::Bytes, &[b"amount", b"", b"=100"]));
    assert_ne!(whole, observed(BodyRule::Bytes, &[b"amount=10"]));
    assert_ne!(whole, observed(BodyRule::Bytes, &[b"amount=100", b"\0"]));
    assert_ne!(whole, Request::with(|request| request.body = b"amount=100"));
    let json = |text: &[u8]| observed(BodyRule::Json, &[text]);
    assert_eq!(json(br#"{"a":1,"b":2}"#), json(br#"{ "b": 2, "a": 1 }"#));
    assert_ne!(json(br#"{"a":1}"#), json(br#"{"a":2}"#));
    assert_ne!(json(b"no json"), json(b"no  json"));
    assert_ne!(json(b"1"), observed(BodyRule::Bytes, &[b"1"]));
}

#[test]
fn what_is_observed_is_kept_where_nothing_that_protects_is_looked_for() {
    let (scope, key) = (scope_of(&[(TENANT, "acme")]), key_of("k"));
    let id = identifier().observed_id("pay", &scope, &key);
    assert_ne!(id, identifier().record_id("pay", &scope, &key));
    assert_eq!(id, identifier().observed_id("pay", &scope, &key));
    assert_ne!(id, identifier().observed_id("pay", &scope, &key_of("l")));
}

#[test]
fn names_of_scopes_hold_no_credentials() {
    let name = |lines: &[(HeaderName, &str)]| identifier().scope_name(&scope_of(lines));
    assert_eq!(name(&[]), "none");
    assert_eq!(name(&[(TENANT, "acme")]), "x-tenant=acme");
    for header in [
        "authorization",
        "cookie",
        "x-api-key",
        "x-auth-token",
        "proxy-authorization",
    ] {
        let shown = name(&[(HeaderName::from_static(header), "s3cret")]);
        assert!(
            shown.starts_with(&format!("{header}#")) && !shown.contains("s3cret"),
            "{shown}"
        );
    }
    let long = "t".repeat(65);
    assert!(!name(&[(TENANT, &long)]).contains("ttt"));
    assert_ne!(
        name(&[(AUTHORIZATION, "Bearer a")]),
        name(&[(AUTHORIZATION, "Bearer b")])
    );
    let value = "a".repeat(60);
    let many = vec![(TENANT, value.as_str()); 100];
    assert!(name(&many).len() <= SCOPE_NAME_MAX);
}

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", id_key()), "IdKeyBytes(..)");
    assert_eq!(
        format!("{:?}", identifier()),
        "Identifier { namespace: \"payments\", .. }"
    );
}

#[test]
fn it_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: T) {}
    shared(identifier());
}

proptest! {
    #[test]
    fn two_operations_have_two_ids(
        a in ("[a-c]{0,3}", "[a-c]{1,3}", "[a-c]{1,3}"),
        b in ("[a-c]{0,3}", "[a-c]{1,3}", "[a-c]{1,3}"),
    ) {
        let id = |(route, tenant, key): &(String, String, String)| {
            identifier().record_id(route, &scope_of(&[(TENANT, tenant)]), &key_of(key))
        };
        prop_assert_eq!(a == b, id(&a) == id(&b));
    }
}
