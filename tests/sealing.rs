//! What is stored sealed is read by those who hold the key, for the record that it was made for, and by nobody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncegate::protocol::{
    Answer, Fingerprint, Op, Origin, Owner, RecordId, Resolution, Response, Retention, Seen, State,
    TraceRef, Verdict,
};
use oncegate::store::{
    Embedded, Memory, NotDone, Sealing, SealingKey, Store, StoreError, system_clock,
};

const ID: RecordId = RecordId([1; 32]);
const DAY: Duration = Duration::from_secs(86_400);
const SECRET: &str = "4242-4242-4242-4242";

#[tokio::test]
async fn a_sealed_response_is_replayed_byte_for_byte_whatever_its_length() {
    for length in [0, 1, 1023, 1024, 70_000] {
        let plain = memory();
        let store = sealing(&plain, &["a"]);
        let response = response(&SECRET.repeat(length / SECRET.len() + 1)[..length]);
        complete(&*store, ID, Answer::Stored(Arc::clone(&response))).await;
        assert_eq!(replayed(&*store, ID).await, Ok(Arc::clone(&response)));
        let looked = store.look(ID, FINGERPRINT).await.unwrap();
        assert_eq!(answer_of(looked.unwrap()), Answer::Stored(response));
    }
}

#[tokio::test]
async fn the_store_holds_neither_body_nor_header_nor_status_in_the_clear() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (embedded, _) = Embedded::open(&path, None, 1 << 30, system_clock()).unwrap();
    let embedded: Arc<dyn Store> = Arc::new(embedded);
    let store = sealing(&embedded, &["a"]);
    complete(&*store, ID, Answer::Stored(response(SECRET))).await;
    store.close().await;
    let file = std::fs::read(&path).unwrap();
    assert!(!contains(&file, SECRET.as_bytes()));
    assert!(!contains(&file, b"x-card"));
    let (plain, _) = Embedded::open(&path, None, 1 << 30, system_clock()).unwrap();
    complete(&plain, RecordId([2; 32]), Answer::Stored(response(SECRET))).await;
    plain.close().await;
    assert!(
        contains(&std::fs::read(&path).unwrap(), SECRET.as_bytes()),
        "the search finds what is in the clear"
    );
}

#[tokio::test]
async fn the_first_key_seals_and_every_key_opens() {
    let inner = memory();
    let (older, newer) = (RecordId([1; 32]), RecordId([2; 32]));
    let stored = |body| Answer::Stored(response(body));
    complete(&*sealing(&inner, &["old"]), older, stored("older")).await;
    let rotated = sealing(&inner, &["new", "old"]);
    complete(&*rotated, newer, stored("newer")).await;
    assert_eq!(replayed(&*rotated, older).await, Ok(response("older")));
    assert_eq!(replayed(&*rotated, newer).await, Ok(response("newer")));
    let only_old = sealing(&inner, &["old"]);
    assert_eq!(replayed(&*only_old, older).await, Ok(response("older")));
    let refused = replayed(&*only_old, newer).await;
    assert!(
        matches!(&refused, Err(NotDone::Unreadable(why)) if why.contains("\"new\"")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_was_stored_before_there_were_keys_is_still_replayed() {
    let inner = memory();
    complete(&*inner, ID, Answer::Stored(response("plain"))).await;
    assert_eq!(
        replayed(&*sealing(&inner, &["a"]), ID).await,
        Ok(response("plain"))
    );
}

#[tokio::test]
async fn a_response_that_was_moved_to_another_record_is_refused() {
    let inner = memory();
    let store = sealing(&inner, &["a"]);
    complete(&*store, ID, Answer::Stored(response("mine"))).await;
    let sealed = raw(&*inner, ID).await;
    let elsewhere = RecordId([2; 32]);
    complete(&*inner, elsewhere, sealed.clone()).await;
    assert!(unreadable(&replayed(&*store, elsewhere).await));
    // Of the same record in another life, with another payload.
    let other = memory();
    let op = completion(Owner(1), Fingerprint([8; 32]), sealed);
    assert_eq!(other.apply(ID, op).await, Ok(Verdict::Done));
    assert!(unreadable(&replayed(&*sealing(&other, &["a"]), ID).await));
}

#[tokio::test]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    for response in [response("mine"), with_trailers("mine")] {
        flipped_bits_are_refused(response).await;
    }
}

#[tokio::test]
async fn trailers_and_trace_come_back_as_they_went() {
    let store = sealing(&memory(), &["a"]);
    for (n, body) in [(1, String::new()), (2, "x".repeat(100_000))] {
        let (id, response) = (RecordId([n; 32]), with_trailers(&body));
        complete(&*store, id, Answer::Stored(Arc::clone(&response))).await;
        assert_eq!(replayed(&*store, id).await, Ok(response));
    }
}

async fn flipped_bits_are_refused(response: Arc<Response>) {
    let inner = memory();
    let store = sealing(&inner, &["a"]);
    complete(&*store, ID, Answer::Stored(response)).await;
    let Answer::Sealed(sealed) = raw(&*inner, ID).await else {
        panic!("it is not sealed");
    };
    for (at, bit) in (0..sealed.text.len()).map(|at| (at, 1)).chain([(0, 3)]) {
        let damaged = memory();
        let mut text = sealed.text.to_vec();
        text[at] ^= bit;
        let answer = Answer::Sealed(oncegate::protocol::Sealed {
            key: Arc::clone(&sealed.key),
            text: text.into(),
        });
        complete(&*damaged, ID, answer).await;
        let refused = replayed(&*sealing(&damaged, &["a"]), ID).await;
        assert!(unreadable(&refused), "byte {at}: {refused:?}");
    }
}

#[tokio::test]
async fn another_key_of_the_same_name_opens_nothing() {
    let inner = memory();
    complete(
        &*sealing(&inner, &["a"]),
        ID,
        Answer::Stored(response("mine")),
    )
    .await;
    let impostor = SealingKey {
        id: "a".to_owned(),
        bytes: [77; 32],
    };
    let store = Sealing::new(inner, &[impostor]);
    assert!(unreadable(&replayed(&store, ID).await));
}

#[tokio::test]
async fn an_operators_answer_is_sealed_for_the_record_that_it_settles() {
    let inner = memory();
    let store = sealing(&inner, &["a"]);
    let seen = Seen {
        owner: Owner(1),
        fence: 1,
        beat: 0,
    };
    let unknown = Op::MarkUnknown {
        owner: Owner(1),
        origin: origin(FINGERPRINT),
        fence: 1,
        cause: oncegate::protocol::Cause::Timeout,
        sent: oncegate::protocol::Sent::default(),
        keep: DAY,
    };
    assert_eq!(store.apply(ID, unknown).await, Ok(Verdict::Done));
    let resolve = Op::Resolve {
        seen,
        verdict: Resolution::Completed {
            answer: Answer::Stored(response("found")),
            retention: KEPT,
        },
    };
    assert_eq!(store.apply(ID, resolve).await, Ok(Verdict::Done));
    assert!(matches!(raw(&*inner, ID).await, Answer::Sealed(_)));
    assert_eq!(replayed(&*store, ID).await, Ok(response("found")));
}

const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);
const KEPT: Retention = Retention {
    keep: DAY,
    tombstone: Duration::ZERO,
};

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::new(1 << 30, system_clock()))
}

fn sealing(inner: &Arc<dyn Store>, keys: &[&str]) -> Arc<dyn Store> {
    let keys: Vec<_> = keys
        .iter()
        .map(|id| SealingKey {
            id: (*id).to_owned(),
            bytes: [id.as_bytes()[0]; 32],
        })
        .collect();
    Arc::new(Sealing::new(Arc::clone(inner), &keys))
}

fn response(body: &str) -> Arc<Response> {
    Arc::new(Response::new(
        201,
        vec![("x-card".to_owned(), Bytes::from_static(b"visa"))],
        body.to_owned().into(),
    ))
}

fn with_trailers(body: &str) -> Arc<Response> {
    let trace = TraceRef {
        trace_id: [1; 16],
        span_id: [2; 8],
    };
    Arc::new(Response {
        trailers: vec![("grpc-status".to_owned(), Bytes::from_static(b"0"))],
        trace: Some(trace),
        ..(*response(body)).clone()
    })
}

fn origin(fingerprint: Fingerprint) -> Origin {
    Origin {
        fingerprint,
        route: "create-payment".into(),
        reference: Bytes::new(),
    }
}

fn completion(owner: Owner, fingerprint: Fingerprint, answer: Answer) -> Op {
    Op::Complete {
        owner,
        origin: origin(fingerprint),
        answer,
        retention: KEPT,
    }
}

async fn complete(store: &dyn Store, id: RecordId, answer: Answer) {
    let op = completion(Owner(1), FINGERPRINT, answer);
    assert_eq!(store.apply(id, op).await, Ok(Verdict::Done));
}

/// What a duplicate is answered.
async fn replayed(store: &dyn Store, id: RecordId) -> Result<Arc<Response>, NotDone> {
    let claim = Op::Claim {
        owner: Owner(2),
        origin: origin(FINGERPRINT),
        lease: Duration::from_secs(15),
        keep: DAY,
    };
    match store.apply(id, claim).await {
        // Another payload's: its answer is looked at by the record itself.
        Ok(Verdict::Mismatch) => match store.read(id).await {
            Err(StoreError::NotDone(why)) => Err(why),
            other => panic!("{other:?}"),
        },
        Ok(verdict) => match answer_of(verdict) {
            Answer::Stored(response) => Ok(response),
            other => panic!("{other:?}"),
        },
        Err(StoreError::NotDone(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    }
}

fn answer_of(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Completed(found) => found.completed.answer,
        other => panic!("{other:?}"),
    }
}

async fn raw(store: &dyn Store, id: RecordId) -> Answer {
    match store.read(id).await.unwrap().unwrap().state {
        State::Completed(completed) => completed.answer,
        other => panic!("{other:?}"),
    }
}

fn unreadable(answer: &Result<Arc<Response>, NotDone>) -> bool {
    matches!(answer, Err(NotDone::Unreadable(_)))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
