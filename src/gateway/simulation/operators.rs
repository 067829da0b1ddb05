//! What befalls records other than by gateways: operators who settle or delete them, and a store that loses them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::history::Event;
use super::plan::Operation;
use super::store::ScriptedStore;
use crate::protocol::{
    self, Answer, Op, Record, RecordId, Resolution, Response, Retention, Verdict,
};

impl ScriptedStore {
    /// Loses what there is about an operation.
    pub fn lose(&self, operation: Operation) {
        let mut held = self.held();
        let known = held.operations.iter();
        let found = known.filter(|(_, (known, _))| *known == operation);
        let found: Option<RecordId> = found.map(|(id, _)| *id).next();
        if let Some(record) = found.and_then(|id| held.records.remove(&id)) {
            let was = held.stood(Some(&record));
            self.world.history.add(Event::Lost { operation, was });
        }
    }

    /// An operator who saw the record some time ago says what became of it.
    pub fn resolve(&self, operation: Operation, gone: bool) {
        let (id, seen) = {
            let held = self.held();
            let mut found = held.operations.iter();
            let Some((id, _)) = found.find(|(_, (known, _))| *known == operation) else {
                return;
            };
            let seen = held.records.get(id).and_then(Record::seen);
            (*id, seen)
        };
        let Some(seen) = seen else { return };
        let answer = Response::new(200, Vec::new(), Bytes::from_static(b"settled by hand"));
        let verdict = match gone {
            true => Resolution::Gone,
            false => Resolution::Completed {
                answer: Answer::Stored(Arc::new(answer)),
                retention: Retention {
                    keep: Duration::from_secs(86_400),
                    tombstone: Duration::ZERO,
                },
            },
        };
        if self.apply_now(id, Op::Resolve { seen, verdict }, 0) == Verdict::Done && gone {
            self.world.history.add(Event::Released(operation));
        }
    }

    /// An operator deletes what there is about an operation, and says so to all gateways.
    pub fn delete(&self, operation: Operation) {
        let mut held = self.held();
        let mut known = held.operations.iter();
        let found = known.find(|(_, (known, _))| *known == operation);
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        let now = self.time();
        let record = held.records.get(&id).cloned();
        let Some(record) = record.and_then(|record| record.at(now)) else {
            return;
        };
        let was = held.stood(Some(&record));
        let version = record.version();
        let (after, marks, verdict) = protocol::forget(Some(record), version, now);
        if verdict != Verdict::Done || after.is_some() {
            return;
        }
        held.records.remove(&id);
        held.marks.extend(marks.into_iter().map(|mark| (id, mark)));
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.world.history.add(Event::Deleted { operation, was });
    }
}
