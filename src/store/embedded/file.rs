//! The file under the database: the head page, then what redb writes.
//!
//! redb verifies its pages when it opens a file and trusts them from then on. Here every block that it has read
//! or written is remembered by its checksum, so that one that changed on disk meanwhile is an error, whatever it
//! held: a damaged inner page of the tree would otherwise make records look absent.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use redb::StorageBackend;
use twox_hash::XxHash3_64;

use super::head::{self, HEAD_LEN, NOTE_AT, NOTE_LEN};

/// The unit of checksums, redb's page size. One takes 8 bytes of memory, 20 MiB for a file of 10 GiB.
const BLOCK: usize = 4096;
/// Where redb's bytes begin.
const DATABASE_AT: u64 = HEAD_LEN as u64;
/// The checksum of a block that was neither read nor written yet.
const UNSEEN: u64 = 0;

/// What is asked of a file; tests pass one that fails.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Bytes in it.
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset` on.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts it, or lengthens it by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once all that was written is on disk.
    fn sync(&self) -> io::Result<()>;
    /// Lets other processes have it.
    fn unlock(&self) -> io::Result<()>;
}

impl Disk for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }
}

/// A store's file.
#[derive(Debug)]
pub struct StoreFile {
    disk: Box<dyn Disk>,
    /// By block of the database, see [`UNSEEN`].
    sums: RwLock<Vec<AtomicU64>>,
    /// Where the disk was written since it last confirmed all of it: offset and length.
    unconfirmed: Mutex<Vec<(u64, usize)>>,
}

impl StoreFile {
    pub fn new(disk: Box<dyn Disk>) -> Self {
        Self {
            disk,
            sums: RwLock::default(),
            unconfirmed: Mutex::default(),
        }
    }

    /// Bytes in the file, the head included.
    pub fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    /// The head page as it is on disk.
    pub fn read_head(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEAD_LEN];
        self.disk.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Empties the file and begins it with this head page.
    pub fn begin(&self, head: &[u8]) -> io::Result<()> {
        self.disk.set_len(0)?;
        self.disk.write_at(0, head)?;
        self.disk.sync()
    }

    /// The number of the last acknowledged change; `None` where it is damaged.
    pub fn acknowledged(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; NOTE_LEN];
        self.disk.read_at(NOTE_AT as u64, &mut bytes)?;
        Ok(head::decode_note(&bytes))
    }

    /// Notes that a change is on disk and is about to be acknowledged. It need not be synced: a process that is
    /// killed leaves it to the kernel, and what a power failure takes of it only makes the check at the next
    /// opening less strict by that one change.
    pub fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        self.disk
            .write_at(NOTE_AT as u64, &head::encode_note(sequence))
    }

    /// Writes again what the disk has not confirmed. After a sync that failed, the kernel holds those pages for
    /// clean: they would be read as written, and never reach the disk.
    pub fn confirm(&self) -> io::Result<()> {
        let unconfirmed = lock(&self.unconfirmed).clone();
        let end = self.disk.len()?;
        for (offset, len) in unconfirmed {
            // The file may have been cut meanwhile.
            let len = usize::try_from(end.saturating_sub(offset)).map_or(len, |left| left.min(len));
            let mut bytes = vec![0; len];
            self.disk.read_at(offset, &mut bytes)?;
            self.disk.write_at(offset, &bytes)?;
        }
        self.sync()
    }

    /// Forgets the checksums of blocks: the file is about to be verified anew.
    pub fn forget_sums(&self) {
        self.sums
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Lets other processes have the file.
    pub fn release(&self) {
        // One that cannot be unlocked is freed with its handle.
        let _ = self.disk.unlock();
    }

    fn sync(&self) -> io::Result<()> {
        // Taken first: what is written while the disk syncs is not confirmed by it.
        let pending = std::mem::take(&mut *lock(&self.unconfirmed));
        let result = self.disk.sync();
        if result.is_err() {
            lock(&self.unconfirmed).extend(pending);
        }
        result
    }

    /// Remembers the blocks that were written, or of those only partly written, that they are unknown.
    fn remember(&self, offset: u64, data: &[u8]) {
        let (first, whole) = blocks(offset, data);
        let end = offset.saturating_add(data.len() as u64);
        let touched = index(end.div_ceil(BLOCK as u64)) - first;
        self.grow(first + touched);
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        for (number, sum) in sums.iter().enumerate().skip(first).take(touched) {
            let block = whole.map(|whole| &whole[(number - first) * BLOCK..][..BLOCK]);
            sum.store(block.map_or(UNSEEN, checksum), Ordering::Release);
        }
    }

    /// Compares the blocks that were read with what is remembered of them.
    fn verify(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (first, Some(whole)) = blocks(offset, data) else {
            return Ok(());
        };
        self.grow(first + whole.len() / BLOCK);
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        for (number, block) in whole.chunks_exact(BLOCK).enumerate() {
            let Some(known) = sums.get(first + number) else {
                break;
            };
            let found = checksum(block);
            let seen = known.compare_exchange(UNSEEN, found, Ordering::AcqRel, Ordering::Acquire);
            if seen.is_err_and(|known| known != found) {
                let at = HEAD_LEN + (first + number) * BLOCK;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the block at byte {at} of the file has changed on disk"),
                ));
            }
        }
        Ok(())
    }

    fn grow(&self, blocks: usize) {
        let len = self
            .sums
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        if len < blocks {
            let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
            if sums.len() < blocks {
                sums.resize_with(blocks, || AtomicU64::new(UNSEEN));
            }
        }
    }
}

/// The file as redb sees it: without the head.
#[derive(Debug)]
pub struct Backend(pub Arc<StoreFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()?.saturating_sub(DATABASE_AT))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.disk.read_at(DATABASE_AT + offset, out)?;
        self.0.verify(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let blocks = index(len.div_ceil(BLOCK as u64));
        let mut sums = self.0.sums.write().unwrap_or_else(PoisonError::into_inner);
        sums.truncate(blocks);
        drop(sums);
        self.0.disk.set_len(DATABASE_AT + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.remember(offset, data);
        lock(&self.0.unconfirmed).push((DATABASE_AT + offset, data.len()));
        self.0.disk.write_at(DATABASE_AT + offset, data)
    }
}

/// The number of the first block, and the data if it is whole blocks.
fn blocks(offset: u64, data: &[u8]) -> (usize, Option<&[u8]>) {
    let first = index(offset / BLOCK as u64);
    let whole = offset.is_multiple_of(BLOCK as u64) && data.len().is_multiple_of(BLOCK);
    (first, whole.then_some(data))
}

/// A number of blocks fits: a file of more could not be addressed by redb either.
fn index(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap_or(usize::MAX)
}

fn checksum(block: &[u8]) -> u64 {
    XxHash3_64::oneshot(block).max(UNSEEN + 1)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
