//! What is unresolved, from the indices of all buckets. An index may name what is not there any more (records end
//! unseen), so each record is asked before it is listed, and what an index names in vain is taken out.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::call::{Call, asked};
use super::identity::AT_ONCE;
use super::keys::Keys;
use super::reply::{strange, texts};
use super::{Redis, StoreError, Unresolved, script};
use crate::protocol::{RecordId, Timestamp};

/// A place in the list: of records since the same moment, the one with the lower id comes first.
type Place = (Timestamp, RecordId);

impl Redis {
    /// See [`super::Store::unresolved`].
    pub(super) async fn list_unresolved(
        &self,
        mut after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, StoreError> {
        self.open()?;
        self.contacted().await?;
        let mut listed = Vec::new();
        while listed.len() < limit {
            let (named, is_all) = self.named(after, limit).await.map_err(asked)?;
            after = named.last().map(Named::place).or(after);
            let there: Vec<Unresolved> = stream::iter(named)
                .map(|named| async move {
                    let is_there = self.is_unresolved(&named).await?;
                    Ok::<_, StoreError>(is_there.then_some(named).and_then(Named::unresolved))
                })
                .buffered(AT_ONCE)
                .try_filter_map(|named| async move { Ok(named) })
                .try_collect()
                .await
                .map_err(asked)?;
            listed.extend(there);
            if is_all {
                break;
            }
        }
        listed.truncate(limit);
        Ok(listed)
    }

    /// What the indices name after this place, in order, about `limit` of it; and whether that is all.
    async fn named(
        &self,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Vec<Named>, bool), StoreError> {
        let buckets: Vec<(Vec<Named>, bool)> = stream::iter(0..=u8::MAX)
            .map(|bucket| self.named_in(bucket, after, limit))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        // Where a bucket has more, the order is known up to the last that it named.
        let ends = buckets.iter().filter(|(_, is_all)| !is_all);
        let known_to = ends
            .filter_map(|(named, _)| named.last().map(Named::place))
            .min();
        let mut named: Vec<Named> = buckets.into_iter().flat_map(|(named, _)| named).collect();
        named.retain(|unresolved| known_to.is_none_or(|end| unresolved.place() <= end));
        named.sort_unstable_by_key(Named::place);
        let is_all = known_to.is_none() && named.len() <= limit;
        named.truncate(limit);
        Ok((named, is_all))
    }

    /// What one bucket's index names after this place, up to `limit`; and whether that is all.
    async fn named_in(
        &self,
        bucket: u8,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Vec<Named>, bool), StoreError> {
        let from = after.map_or(0, |(since, _)| since.0);
        let (mut named, mut skip) = (Vec::new(), 0_u64);
        loop {
            let call = Call::new(vec![self.keys.index(bucket)])
                .text(&self.now())
                .number(from)
                .number(skip)
                .number(limit as u64);
            let answer = self.run(&script::UNRESOLVED, bucket, &call).await?;
            let words = texts(answer.value)?;
            let Some((count, (pairs, []))) = words
                .split_first()
                .map(|(count, rest)| (count, rest.as_chunks::<2>()))
            else {
                return Err(strange().into());
            };
            let looked_at: u64 = count.parse().map_err(|_| strange())?;
            skip += looked_at;
            let entries = pairs
                .iter()
                .filter_map(|[name, since]| Named::read(name, since));
            named.extend(entries.filter(|entry| after.is_none_or(|after| entry.place() > after)));
            if looked_at < limit as u64 {
                return Ok((named, true));
            }
            if named.len() >= limit {
                return Ok((named, false));
            }
        }
    }

    /// Whether the record is what its index says; if not, the index is put right.
    async fn is_unresolved(&self, named: &Named) -> Result<bool, StoreError> {
        let bucket = Keys::bucket(&named.id);
        let keys = vec![self.keys.record(&named.id), self.keys.index(bucket)];
        let call = self.with_time(&named.id, keys).text(&named.name);
        let answer = self.run(&script::TIDY, bucket, &call).await?;
        // What cannot be read is unresolved for all that anybody knows.
        match texts(answer.value)?.first().map(String::as_str) {
            Some("absent") => Ok(false),
            Some("aged_out") => {
                self.gauge.aged_out();
                Ok(false)
            }
            _ => Ok(true),
        }
    }
}

/// What an index names.
struct Named {
    since: Timestamp,
    id: RecordId,
    name: String,
}

impl Named {
    /// A name, `ID:KIND:ROUTE`, and its score; nothing where it is none of ours.
    fn read(name: &str, since: &str) -> Option<Self> {
        let (digits, _) = name.split_once(':')?;
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.as_bytes().as_chunks::<2>().0) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        (digits.len() == 64).then_some(Self {
            since: Timestamp(since.parse().ok()?),
            id: RecordId(id),
            name: name.to_owned(),
        })
    }

    fn place(&self) -> Place {
        (self.since, self.id)
    }

    fn unresolved(self) -> Option<Unresolved> {
        let (_, route) = self.name.split_once(':')?.1.split_once(':')?;
        Some(Unresolved {
            id: self.id,
            route: route.into(),
            since: self.since,
        })
    }
}
