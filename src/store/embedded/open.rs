//! Making and opening a store's file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread;

use tokio::sync::watch;

use super::engine::{Engine, Failure, Tally};
use super::file::{Disk, StoreFile};
use super::head::{BadHead, HEAD_LEN, Head, KeyOrigin};
use super::writer::Writer;
use super::{CACHE_BYTES, Embedded, Found, Phase, QUEUE, Settings, Shared};
use crate::store::Clock;
use crate::store::marks::Marks;
use crate::store::unresolved::Open;

/// Why a store's file was not opened. Each says which.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{0} is in use by another process: an embedded store serves a single process")]
    InUse(PathBuf),
    /// It is another kind of file.
    #[error("{0} is not a store of oncegate")]
    Foreign(PathBuf),
    /// Its layout is newer than this program.
    #[error("{path} was written by a newer oncegate (layout {version})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout's version.
        version: u16,
    },
    /// It is not what was written. It holds, or held, records: making a new one forgets what was executed.
    #[error(
        "the store {path} is damaged; restore a copy of it, or move it away to begin anew, knowing that its keys are \
         then forgotten and their retries executed again ({what})"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was noticed.
        what: String,
    },
    /// It was begun with another `id_key`: none of its records would be found.
    #[error("{0} was begun with another id_key")]
    OtherIdKey(PathBuf),
    /// It was begun with a configured `id_key`, and none is configured.
    #[error("{0} was begun with a configured id_key, and none is configured now")]
    IdKeyMissing(PathBuf),
}

impl Embedded {
    /// Opens a store's file, or makes it where there is none, and verifies all of it: this takes as long as it
    /// takes to read the file. Claims that were open get a fresh lease. To be called off the async threads.
    ///
    /// - `id_key`: the configured key of record ids and fingerprints. `None`: made at first, and kept in the file;
    /// - `max_size`: bytes of records from which on no new claim is taken. The file is larger, up to about twice;
    /// - `clock`: judges leases, retention and marks.
    ///
    /// Returns the store, and the id key to use.
    ///
    /// # Errors
    /// Whatever is not certainly a whole store of this id key. Nothing is made in the place of an existing file,
    /// not even of an empty one.
    pub fn open(
        path: &Path,
        id_key: Option<[u8; 32]>,
        max_size: u64,
        clock: Clock,
    ) -> Result<(Self, [u8; 32]), OpenError> {
        let at = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let settings = Settings {
            max_size,
            cache_bytes: CACHE_BYTES,
            clock,
        };
        // Another process may make the file between the two steps of a round, and once made it stays.
        for _ in 0..2 {
            match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => {
                    lock(&file, path)?;
                    return Self::open_disk(Box::new(file), path, id_key, settings);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(error)),
            }
            if let Some(made) = create(path, id_key)? {
                return made.serve(path, settings, true);
            }
        }
        Err(at(io::ErrorKind::NotFound.into()))
    }

    /// Opens a file that exists and is locked.
    pub(super) fn open_disk(
        disk: Box<dyn Disk>,
        path: &Path,
        id_key: Option<[u8; 32]>,
        settings: Settings,
    ) -> Result<(Self, [u8; 32]), OpenError> {
        let file = Arc::new(StoreFile::new(disk));
        let id_key = read_id_key(&file, path, id_key)?;
        let failed = |failure| failed(path, failure);
        let (engine, tally) = Engine::open(&file, settings.cache_bytes).map_err(failed)?;
        let tally = engine
            .renew_leases(tally, (settings.clock)())
            .map_err(failed)?;
        let open = engine.index().map_err(failed)?;
        let opened = Opened {
            file,
            engine,
            open,
            tally,
            id_key,
        };
        opened.serve(path, settings, false)
    }
}

/// A file ready to serve.
struct Opened {
    file: Arc<StoreFile>,
    engine: Engine,
    open: Open,
    tally: Tally,
    id_key: [u8; 32],
}

impl Opened {
    fn serve(
        self,
        path: &Path,
        settings: Settings,
        created: bool,
    ) -> Result<(Embedded, [u8; 32]), OpenError> {
        let at = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        self.file.acknowledge(self.tally.sequence).map_err(at)?;
        let found = Found {
            claims: self.open.claims(),
            unknown: self.open.unknown(),
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file: self.file,
            settings,
            phase: RwLock::new(Phase::Open(Box::new(self.engine))),
            marks: Mutex::new(Marks::default()),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            aged_out: AtomicU64::new(0),
            open: Mutex::new(self.open),
        });
        shared.show(self.tally);
        let (calls, waiting) = mpsc::sync_channel(QUEUE);
        let (closed, when_closed) = watch::channel(false);
        let writer = Writer {
            shared: Arc::clone(&shared),
            calls: waiting,
            tally: self.tally,
            trouble: None,
            closed,
        };
        let thread = thread::Builder::new().name("store-writer".into());
        thread.spawn(move || writer.run()).map_err(at)?;
        let store = Embedded {
            shared,
            calls: RwLock::new(Some(calls)),
            closed: when_closed,
            created,
            found,
        };
        Ok((store, self.id_key))
    }
}

/// Makes the file under another name and moves it to its own once it is whole, so that a crash on the way leaves
/// no file that could be taken for a damaged store. `None` where somebody else has made it meanwhile.
fn create(path: &Path, id_key: Option<[u8; 32]>) -> Result<Option<Opened>, OpenError> {
    let at = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let unfinished = unfinished(path);
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // It will hold other people's answers.
        .mode(0o600)
        .open(&unfinished)
        .map_err(|source| OpenError::Io {
            path: unfinished.clone(),
            source,
        })?;
    // Held to the end of the process: it goes with the file when that gets its name.
    lock(&disk, path)?;
    if path.try_exists().map_err(at)? {
        return Ok(None);
    }
    let origin = match id_key {
        Some(key) => KeyOrigin::configured(&key),
        None => KeyOrigin::Made(random_key(path)?),
    };
    let file = Arc::new(StoreFile::new(Box::new(disk)));
    file.begin(&Head { id_key: origin }.encode()).map_err(at)?;
    let engine = Engine::create(&file, CACHE_BYTES).map_err(|failure| failed(path, failure))?;
    let tally = Tally {
        sequence: 1,
        ..Tally::default()
    };
    file.confirm().map_err(at)?;
    fs::rename(&unfinished, path).map_err(at)?;
    sync_directory(path).map_err(at)?;
    let id_key = match (origin, id_key) {
        (KeyOrigin::Made(key), _) | (KeyOrigin::Configured(_), Some(key)) => key,
        (KeyOrigin::Configured(_), None) => return Err(OpenError::IdKeyMissing(path.to_owned())),
    };
    Ok(Some(Opened {
        file,
        engine,
        open: Open::default(),
        tally,
        id_key,
    }))
}

/// Reads the head, and the id key to use.
fn read_id_key(
    file: &StoreFile,
    path: &Path,
    configured: Option<[u8; 32]>,
) -> Result<[u8; 32], OpenError> {
    let at = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let damaged = |what: &str| OpenError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    match file.len().map_err(at)? {
        0 => return Err(damaged("it is empty")),
        // The engine would take a file that ends here for one that it is to begin.
        len if len <= HEAD_LEN as u64 => return Err(damaged("it is cut off")),
        _ => {}
    }
    let head = Head::decode(&file.read_head().map_err(at)?).map_err(|bad| match bad {
        BadHead::Foreign => OpenError::Foreign(path.to_owned()),
        BadHead::Newer(version) => OpenError::Newer {
            path: path.to_owned(),
            version,
        },
        BadHead::Damaged => damaged("its head is not what was written"),
    })?;
    match (head.id_key, configured) {
        (KeyOrigin::Made(key), None) => Ok(key),
        (KeyOrigin::Made(made), Some(key)) if made == key => Ok(key),
        (KeyOrigin::Configured(_), Some(key)) if KeyOrigin::configured(&key) == head.id_key => {
            Ok(key)
        }
        (KeyOrigin::Made(_) | KeyOrigin::Configured(_), Some(_)) => {
            Err(OpenError::OtherIdKey(path.to_owned()))
        }
        (KeyOrigin::Configured(_), None) => Err(OpenError::IdKeyMissing(path.to_owned())),
    }
}

fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse(path.to_owned()),
        TryLockError::Error(source) => OpenError::Io {
            path: path.to_owned(),
            source,
        },
    })
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn random_key(path: &Path) -> Result<[u8; 32], OpenError> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| OpenError::Io {
        path: path.to_owned(),
        source: io::Error::other("the system gives no random bytes"),
    })?;
    Ok(key)
}

/// A name is on disk once the directory that holds it is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn failed(path: &Path, failure: Failure) -> OpenError {
    let path = path.to_owned();
    match failure {
        Failure::Storage(redb::Error::Io(source))
            if source.kind() != io::ErrorKind::InvalidData =>
        {
            OpenError::Io { path, source }
        }
        failure => OpenError::Damaged {
            path,
            what: failure.to_string(),
        },
    }
}
