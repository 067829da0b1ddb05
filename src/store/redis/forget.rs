//! An operator's delete.

use super::call::failure;
use super::keys::Keys;
use super::reply::{self, Said};
use super::{Call, Redis, StoreError, script};
use crate::protocol::{Owner, RecordId, Verdict, Version};

impl Redis {
    /// See [`super::Store::forget`]. The owners that the delete marks are named by the record as it is now; where it
    /// changes before the script runs, the script does nothing.
    pub(super) async fn forget_record(
        &self,
        id: RecordId,
        version: Version,
    ) -> Result<Verdict, StoreError> {
        let Some(record) = self.read_record(id).await? else {
            return Ok(Verdict::Done);
        };
        let mut owners = record.owners();
        let owner = owners.next().unwrap_or(Owner(0));
        let call = seen(self.call_to_forget(&id, owner, owners.next()), version);
        let outcome = self.run(&script::FORGET, Keys::bucket(&id), &call).await?;
        match reply::said(&id, outcome.value) {
            Ok(Said::Verdict(Verdict::Changed)) => match outcome.in_doubt {
                // The other copy may land yet.
                Some(why) => Err(StoreError::InDoubt(why)),
                None => Ok(Verdict::Changed),
            },
            Ok(Said::Verdict(verdict)) => Ok(verdict),
            Ok(Said::Absent | Said::NotTheStore(_)) => {
                Err(failure(reply::strange(), outcome.in_doubt))
            }
            Err(why) => Err(failure(why, outcome.in_doubt)),
        }
    }
}

fn seen(call: Call, version: Version) -> Call {
    match version {
        Version::Open(seen) => call.text("open").seen(seen),
        Version::Completed {
            owner,
            completed_at,
        } => {
            let call = call.text("completed");
            let call = match owner {
                Some(owner) => call.owner(owner),
                None => call.text(""),
            };
            call.number(completed_at.0)
        }
        Version::Expired(since) => call.text("expired").number(since.0),
    }
}
