//! How often an upstream is asked about one record, by how many at a time, and since when it is known to be unknown.
//!
//! All by this process's monotonic clock: a record is told from an earlier one by the moment since when it is unknown, as the
//! store says, and nothing is computed from that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::protocol::{RecordId, Timestamp};

/// Records of unknown outcome that are kept in mind, some hundred bytes each. Those beyond are not asked about until there
/// is room again.
const MAX_PACED: usize = 65_536;

/// Probes at a time that duplicates ask for. A further duplicate is answered as if there were none.
const MAX_ASKED: usize = 64;

/// Probes at a time in the background: the upstream may be in trouble already.
const MAX_IN_BACKGROUND: usize = 8;

/// The pause after the first probe of a record; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause between two probes of a record.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Within so long after its first sight a record is asked about in the background for the first time: gateways that share
/// a store do not all ask at once, and one that has settled it spares the others the asking.
const SPREAD: Duration = Duration::from_secs(2);

/// What is known of the records that upstreams are asked about.
pub struct Paces {
    paces: Mutex<HashMap<RecordId, Pace>>,
    asked: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

struct Pace {
    /// Since when it is unknown, by the store's word: another one is another attempt.
    since: Timestamp,
    first_sight: Instant,
    last_sight: Instant,
    /// When a duplicate may have it asked about.
    due: Instant,
    /// When it is asked about without one.
    background_due: Instant,
    pause: Duration,
    under_way: Option<watch::Receiver<()>>,
}

/// For whose sake an upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sake {
    /// A duplicate's, which waits for the answer.
    Duplicate,
    /// Nobody's.
    Background,
}

/// Whether a record may be asked about now.
pub enum Turn {
    /// By the holder of this.
    Now(Asking),
    /// Somebody in this process is asking; the receiver errs when that is over.
    UnderWay(watch::Receiver<()>),
    /// Not now: it was asked about a moment ago, or as many ask as may.
    Later,
}

/// The right to ask about a record. When it is dropped the next pause begins, and those that wait are told.
pub struct Asking {
    paces: Arc<Paces>,
    id: RecordId,
    since: Timestamp,
    /// Since when this gateway has known it to be unknown.
    pub first_sight: Instant,
    /// Where asking makes sense before the pause is over.
    pub again_at: Option<Instant>,
    _ends: watch::Sender<()>,
    _place: OwnedSemaphorePermit,
}

impl Paces {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            paces: Mutex::default(),
            asked: Arc::new(Semaphore::new(MAX_ASKED)),
            background: Arc::new(Semaphore::new(MAX_IN_BACKGROUND)),
        })
    }

    /// A place among the background's probes, once there is one.
    pub async fn background_place(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.background).acquire_owned().await;
        place.expect("nobody closes the semaphore")
    }

    /// This record was seen to be unknown since then. Says whether the background is to ask about it now.
    pub fn saw(&self, id: RecordId, since: Timestamp) -> bool {
        let now = Instant::now();
        let mut paces = self.paces();
        let pace = sighted(&mut paces, id, since, now);
        pace.is_some_and(|pace| pace.under_way.is_none() && pace.background_due <= now)
    }

    /// Whether a record may be asked about now, for a duplicate.
    pub fn turn(self: &Arc<Self>, id: RecordId, since: Timestamp) -> Turn {
        let place = Arc::clone(&self.asked).try_acquire_owned().ok();
        self.turn_for(id, since, Sake::Duplicate, place)
    }

    /// The same in the background, which has a place already.
    pub fn background_turn(
        self: &Arc<Self>,
        id: RecordId,
        since: Timestamp,
        place: OwnedSemaphorePermit,
    ) -> Turn {
        self.turn_for(id, since, Sake::Background, Some(place))
    }

    fn turn_for(
        self: &Arc<Self>,
        id: RecordId,
        since: Timestamp,
        sake: Sake,
        place: Option<OwnedSemaphorePermit>,
    ) -> Turn {
        let now = Instant::now();
        let mut paces = self.paces();
        let Some(pace) = sighted(&mut paces, id, since, now) else {
            return Turn::Later;
        };
        if let Some(under_way) = &pace.under_way {
            return Turn::UnderWay(under_way.clone());
        }
        let due = match sake {
            Sake::Duplicate => pace.due,
            Sake::Background => pace.background_due,
        };
        let Some(place) = place.filter(|_| due <= now) else {
            return Turn::Later;
        };
        let (ends, under_way) = watch::channel(());
        pace.under_way = Some(under_way);
        Turn::Now(Asking {
            paces: Arc::clone(self),
            id,
            since,
            first_sight: pace.first_sight,
            again_at: None,
            _ends: ends,
            _place: place,
        })
    }

    /// It is settled.
    pub fn forget(&self, id: RecordId) {
        self.paces().remove(&id);
    }

    /// Forgets what nobody has seen since: it is settled, or past its retention.
    pub fn forget_unseen(&self, since: Instant) {
        self.paces()
            .retain(|_, pace| pace.under_way.is_some() || pace.last_sight >= since);
    }

    fn paces(&self) -> MutexGuard<'_, HashMap<RecordId, Pace>> {
        // Nothing panics while it holds the lock; if it did, the map would still be whole.
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pace of a record that was just seen; `None` where there is no room for another one.
fn sighted(
    paces: &mut HashMap<RecordId, Pace>,
    id: RecordId,
    since: Timestamp,
    now: Instant,
) -> Option<&mut Pace> {
    if paces.len() >= MAX_PACED && !paces.contains_key(&id) {
        return None;
    }
    let first = || Pace {
        since,
        first_sight: now,
        last_sight: now,
        due: now,
        background_due: now + jittered(SPREAD),
        pause: FIRST_PAUSE,
        under_way: None,
    };
    let pace = paces.entry(id).or_insert_with(first);
    if pace.since != since {
        let under_way = pace.under_way.take();
        *pace = Pace {
            under_way,
            ..first()
        };
    }
    pace.last_sight = now;
    Some(pace)
}

impl Drop for Asking {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut paces = self.paces.paces();
        let Some(pace) = paces.get_mut(&self.id) else {
            return;
        };
        pace.under_way = None;
        if pace.since != self.since {
            return;
        }
        let pause = pace.pause / 2 + jittered(pace.pause / 2);
        pace.pause = (pace.pause * 2).min(LONGEST_PAUSE);
        let due = self
            .again_at
            .map_or(now + pause, |again| again.max(now).min(now + pause));
        pace.due = due;
        pace.background_due = due + jittered(SPREAD).min(pause / 2);
    }
}

/// A part of this time, at random.
pub fn jittered(span: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness there is no jitter, which is no safety.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    span * u32::from(u16::from_be_bytes(bytes)) / (u32::from(u16::MAX) + 1)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const ID: RecordId = RecordId([1; 32]);
    const SINCE: Timestamp = Timestamp(7);

    fn asks(paces: &Arc<Paces>) -> Asking {
        match paces.turn(ID, SINCE) {
            Turn::Now(asking) => asking,
            Turn::UnderWay(_) | Turn::Later => panic!("it is nobody's turn"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_at_a_time_and_the_others_hear_when_it_is_over() {
        let paces = Paces::new();
        let asking = asks(&paces);
        let Turn::UnderWay(mut under_way) = paces.turn(ID, SINCE) else {
            panic!("somebody asks already");
        };
        drop(asking);
        assert!(under_way.changed().await.is_err());
        assert!(matches!(paces.turn(ID, SINCE), Turn::Later));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound() {
        let paces = Paces::new();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            drop(asks(&paces));
            let begun = Instant::now();
            while matches!(paces.turn(ID, SINCE), Turn::Later) {
                advance(Duration::from_millis(100)).await;
            }
            pauses.push(begun.elapsed());
            advance(LONGEST_PAUSE).await;
        }
        assert!(
            pauses[0] >= FIRST_PAUSE / 2 && pauses[0] <= FIRST_PAUSE,
            "{pauses:?}"
        );
        assert!(pauses[10] >= LONGEST_PAUSE / 2, "{pauses:?}");
        assert!(
            pauses.iter().all(|pause| *pause <= LONGEST_PAUSE),
            "{pauses:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn it_may_be_asked_again_sooner_where_that_makes_sense() {
        let paces = Paces::new();
        let mut asking = asks(&paces);
        asking.again_at = Some(Instant::now() + Duration::from_millis(500));
        drop(asking);
        assert!(matches!(paces.turn(ID, SINCE), Turn::Later));
        advance(Duration::from_millis(500)).await;
        assert!(matches!(paces.turn(ID, SINCE), Turn::Now(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn another_attempt_at_the_same_key_is_known_from_its_own_beginning() {
        let paces = Paces::new();
        let first = asks(&paces).first_sight;
        advance(Duration::from_secs(60)).await;
        assert_eq!(asks(&paces).first_sight, first);
        let Turn::Now(asking) = paces.turn(ID, Timestamp(8)) else {
            panic!("it is new");
        };
        assert_eq!(asking.first_sight, Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_asks_within_a_moment_and_not_at_once() {
        let mut at_once = 0;
        for _ in 0..20 {
            let paces = Paces::new();
            at_once += usize::from(paces.saw(ID, SINCE));
            advance(SPREAD).await;
            assert!(paces.saw(ID, SINCE));
        }
        assert!(at_once < 10, "{at_once}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_duplicates_ask_than_may() {
        let paces = Paces::new();
        let id = |number: usize| {
            let mut id = ID;
            id.0[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        let asking: Vec<Turn> = (0..MAX_ASKED)
            .map(|number| paces.turn(id(number), SINCE))
            .collect();
        assert!(asking.iter().all(|turn| matches!(turn, Turn::Now(_))));
        assert!(matches!(paces.turn(id(MAX_ASKED), SINCE), Turn::Later));
        drop(asking);
        assert!(matches!(paces.turn(id(MAX_ASKED), SINCE), Turn::Now(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_sees_any_more_is_forgotten() {
        let paces = Paces::new();
        paces.saw(ID, SINCE);
        advance(Duration::from_secs(1)).await;
        let scan = Instant::now();
        paces.saw(RecordId([2; 32]), SINCE);
        paces.forget_unseen(scan);
        assert_eq!(paces.paces().len(), 1);
    }
}
