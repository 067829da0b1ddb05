//! The names of keys. All that belongs to one record is in one bucket, and a bucket's keys are in one slot of a
//! cluster, by the tag in braces.

use std::fmt::Write;

use crate::protocol::{Owner, RecordId};

/// Parts of the store, spread over the servers of a cluster. Fixed for good: it is part of every key.
pub const BUCKETS: usize = 256;

/// The keys of one namespace.
pub struct Keys {
    namespace: String,
}

impl Keys {
    /// `namespace` has no braces.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// The bucket of a record. Ids are hashes: any byte spreads them evenly.
    pub fn bucket(id: &RecordId) -> u8 {
        id.0[0]
    }

    /// What is hashed to the slot of this bucket.
    pub fn tag(&self, bucket: u8) -> String {
        format!("{}:{bucket:02x}", self.namespace)
    }

    /// The record itself.
    pub fn record(&self, id: &RecordId) -> String {
        format!("{{{}}}:r:{}", self.tag(Self::bucket(id)), hex(&id.0))
    }

    /// What is unresolved in this bucket, by the time since when.
    pub fn index(&self, bucket: u8) -> String {
        format!("{{{}}}:unresolved", self.tag(bucket))
    }

    /// The mark of an owner beside a record.
    pub fn mark(&self, id: &RecordId, owner: Owner) -> String {
        let tag = self.tag(Self::bucket(id));
        format!("{{{tag}}}:m:{}:{}", hex(&id.0), owner_text(owner))
    }

    /// What stands for the whole store, in its first bucket.
    pub fn store(&self) -> String {
        format!("{{{}}}:store", self.tag(0))
    }

    /// What changes whenever a completed record was changed by hand, in this bucket.
    pub fn epoch(&self, bucket: u8) -> String {
        format!("{{{}}}:epoch", self.tag(bucket))
    }

    /// Nothing, but for the moment in which rights are tried.
    pub fn rights(&self, bucket: u8) -> String {
        format!("{{{}}}:rights", self.tag(bucket))
    }

    /// Which store this bucket belongs to.
    pub fn identity(&self, bucket: u8) -> String {
        format!("{{{}}}:identity", self.tag(bucket))
    }
}

/// An owner as the scripts know it.
pub fn owner_text(owner: Owner) -> String {
    format!("{:032x}", owner.0)
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
