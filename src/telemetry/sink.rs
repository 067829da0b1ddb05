//! Where lines go: a bounded queue in memory, and a thread that writes it out. Whoever logs never waits for whoever
//! reads the log; where that one stalls, lines are dropped and counted.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written. At some 500 bytes a line this holds a second of a busy gateway.
const MAX_QUEUED: usize = 4 << 20;

/// How long lines are gathered after some were written: one write then takes many, and a busy gateway is not
/// interrupted for each of its lines. The first line after a pause is written at once.
const GATHER: Duration = Duration::from_millis(5);

/// How long a reader that takes nothing is left alone before it is tried again, where its end does not block.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Takes whole lines, at once. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Told when there are lines and the writer sleeps, when the writer is to end, and when it has.
    changed: Condvar,
    /// Lines that were dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// How many lines those are.
    count: u64,
    /// Lines dropped since it was last said.
    unsaid: u64,
    /// The writer waits for the first line.
    is_awaited: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// What is queued is still written.
    Closing,
    Over,
}

impl Sink {
    /// A queue that a thread of its own writes to `target`. `said` words the line that tells how many were dropped.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        target: impl Write + Send + 'static,
        said: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let sink = Self(Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
        }));
        let shared = Arc::clone(&sink.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_out(target, &said))?;
        Ok(sink)
    }

    /// Queues a whole line, or drops it where the queue is full.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.stage != Stage::Open || queue.lines.len() + line.len() > MAX_QUEUED {
            queue.unsaid += 1;
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.lines.extend_from_slice(line);
        queue.count += 1;
        if std::mem::take(&mut queue.is_awaited) {
            drop(queue);
            self.0.changed.notify_all();
        }
    }

    /// Lines dropped since the start, those among them that could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, and not for long: a reader that has stalled must not hold up the end of the
    /// process. Later lines are dropped.
    pub fn finish(&self) {
        let mut queue = self.0.queue();
        if queue.stage == Stage::Open {
            queue.stage = Stage::Closing;
        }
        self.0.changed.notify_all();
        let is_open = |queue: &mut Queue| queue.stage != Stage::Over;
        let waited = self
            .0
            .changed
            .wait_timeout_while(queue, LAST_LINES, is_open);
        drop(waited);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; if it did, the lines so far would still be lines.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's thread.
    fn write_out(&self, mut target: impl Write, said: &impl Fn(u64) -> Vec<u8>) {
        let mut batch = Vec::new();
        while let Some(Taken { count, unsaid }) = self.take(&mut batch) {
            if unsaid > 0 {
                // After the lines that had found room before.
                batch.extend_from_slice(&said(unsaid));
            }
            if self.write(&mut target, &batch).is_err() {
                // Nobody reads any more, which must not end the process.
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
            batch.clear();
            self.gather();
        }
        self.queue().stage = Stage::Over;
        self.changed.notify_all();
    }

    /// Waits for lines and takes all there are; `None` where there are none and will be none.
    fn take(&self, batch: &mut Vec<u8>) -> Option<Taken> {
        let mut queue = self.queue();
        while queue.lines.is_empty() && queue.unsaid == 0 {
            if queue.stage != Stage::Open {
                return None;
            }
            queue.is_awaited = true;
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.is_awaited = false;
        std::mem::swap(&mut queue.lines, batch);
        Some(Taken {
            count: std::mem::take(&mut queue.count),
            unsaid: std::mem::take(&mut queue.unsaid),
        })
    }

    fn write(&self, target: &mut impl Write, mut batch: &[u8]) -> io::Result<()> {
        while !batch.is_empty() {
            match target.write(batch) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => batch = &batch[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever started us may have given us an end that does not block.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pause(TRY_AGAIN),
                Err(error) => return Err(error),
            }
        }
        target.flush()
    }

    /// Lets lines come together; not at the end.
    fn gather(&self) {
        let queue = self.queue();
        let is_open = |queue: &mut Queue| queue.stage == Stage::Open;
        let gathered = self.changed.wait_timeout_while(queue, GATHER, is_open);
        drop(gathered);
    }

    fn pause(&self, span: Duration) {
        let paused = self.changed.wait_timeout(self.queue(), span);
        drop(paused);
    }
}

/// What came with a batch.
struct Taken {
    /// Lines in it.
    count: u64,
    /// Lines that were dropped since the batch before it.
    unsaid: u64,
}

/// One event's line on its way; whoever formats it writes it in one go.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a Sink);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn said(count: u64) -> Vec<u8> {
        format!("{count} dropped\n").into_bytes()
    }

    /// Takes a piece each time that it is let.
    struct Slow {
        lets: mpsc::Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.lets.recv() {
                Ok(()) => {
                    self.read.lock().unwrap().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                Err(_) => Err(ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (mpsc::SyncSender<()>, Arc<Mutex<Vec<u8>>>, Sink) {
        let (lets, let_in) = mpsc::sync_channel(1000);
        let read = Arc::default();
        let target = Slow {
            lets: let_in,
            read: Arc::clone(&read),
        };
        (lets, read, Sink::start(target, said).unwrap())
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (lets, read, sink) = slow();
        for _ in 0..1000 {
            lets.send(()).unwrap();
        }
        for number in 0..1000 {
            sink.push(format!("{number}\n").as_bytes());
        }
        sink.finish();
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert!(text.ends_with("\n998\n999\n"));
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn what_finds_no_room_is_dropped_counted_and_said_after_what_found_some() {
        let (lets, read, sink) = slow();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // One batch is under way, and the queue is full behind it.
        sink.push(&line);
        while !sink.0.queue().lines.is_empty() {
            thread::yield_now();
        }
        let pushed = 2 * MAX_QUEUED / line.len();
        for _ in 1..pushed {
            sink.push(&line);
        }
        let dropped = sink.dropped();
        assert!(dropped > 0);
        for _ in 0..2 {
            lets.send(()).unwrap();
        }
        sink.finish();
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with(&format!("\n{dropped} dropped\n")));
        assert_eq!(text.lines().count() as u64 - 1 + dropped, pushed as u64);
    }

    #[test]
    fn a_reader_that_takes_nothing_does_not_hold_up_the_end() {
        let (lets, read, sink) = slow();
        sink.push(b"one\n");
        sink.finish();
        sink.push(b"two\n");
        assert_eq!(sink.dropped(), 1);
        assert!(read.lock().unwrap().is_empty());
        drop(lets);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (lets, _, sink) = slow();
        drop(lets);
        sink.push(b"one\n");
        sink.finish();
        assert_eq!(sink.dropped(), 1);
    }
}
