//! A future beside another one, in one task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A future that is polled when it was woken itself, and not whenever its task is: what waits for hours beside a busy
/// connection costs that next to nothing.
pub(super) struct Apart<F> {
    future: F,
    call: Arc<Call>,
}

/// What the future is woken by.
struct Call {
    /// It is to be polled.
    is_due: AtomicBool,
    task: AtomicWaker,
}

impl<F: Future + Unpin> Apart<F> {
    pub(super) fn new(future: F) -> Self {
        let call = Call {
            is_due: AtomicBool::new(true),
            task: AtomicWaker::new(),
        };
        Self {
            future,
            call: Arc::new(call),
        }
    }

    /// The future, to be changed: it is polled next time.
    pub(super) fn change(&mut self) -> &mut F {
        self.call.is_due.store(true, Ordering::Relaxed);
        &mut self.future
    }
}

impl<F: Future + Unpin> Future for Apart<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // First, so that a call that comes right after the look below wakes the task.
        self.call.task.register(cx.waker());
        if !self.call.is_due.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.call));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;
    use tokio::time::{Instant, advance, sleep};

    use super::*;

    #[tokio::test]
    async fn what_was_not_woken_is_not_polled() {
        let (mut polls, (tell, mut told)) = (0, oneshot::channel());
        let mut apart = Apart::new(poll_fn(|cx| {
            polls += 1;
            told.poll_unpin(cx)
        }));
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut apart).is_pending());
        }
        tell.send(7).expect("somebody listens");
        assert_eq!(apart.await, Ok(7));
        assert_eq!(polls, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_woken_wakes_the_task_and_what_was_changed_is_polled() {
        let timer = pin!(sleep(Duration::from_secs(1)));
        let mut timer = Apart::new(timer);
        let begun = Instant::now();
        (&mut timer).await;
        timer
            .change()
            .as_mut()
            .reset(begun + Duration::from_secs(3));
        assert!(futures_util::poll!(&mut timer).is_pending());
        advance(Duration::from_secs(1)).await;
        assert!(futures_util::poll!(&mut timer).is_pending());
        timer.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }
}
