//! Work that outlives the one who waits for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::process;

/// Waits for a reply of some work, and does the work meanwhile.
///
/// The work goes on in a task of its own as soon as this stops waiting: because the reply is there and the work is
/// not over, or because whoever waited is gone and this is dropped. So a client that hangs up cancels nothing,
/// and one that stays costs no second task.
pub struct Detach<R> {
    /// `None` once it is over or detached.
    work: Option<BoxFuture<'static, ()>>,
    reply: oneshot::Receiver<R>,
    tasks: TaskTracker,
    /// The work counts as under way from the beginning.
    _counted: TaskTrackerToken,
}

impl<R> Detach<R> {
    /// `work` sends to the other end of `reply`; `tasks` are those that a drain waits for.
    pub fn new(
        work: impl Future<Output = ()> + Send + 'static,
        reply: oneshot::Receiver<R>,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            work: Some(work.boxed()),
            reply,
            tasks: tasks.clone(),
            _counted: tasks.token(),
        }
    }

    fn detach(&mut self) {
        // Without a runtime the process is at its end, and nothing goes on.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tasks.spawn_on(process::task(work), &runtime);
        }
    }
}

impl<R> Future for Detach<R> {
    /// An error where the work ended without a reply.
    type Output = Result<R, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(work) = &mut self.work
            && work.poll_unpin(cx).is_ready()
        {
            self.work = None;
        }
        let reply = ready!(self.reply.poll_unpin(cx));
        self.detach();
        Poll::Ready(reply)
    }
}

impl<R> Drop for Detach<R> {
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_any_more() {
        let tasks = TaskTracker::new();
        let (reply, answer) = oneshot::channel::<()>();
        let (go, wait) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let work = async move {
            wait.await.expect("the test says when");
            done.send(()).expect("the test listens");
            drop(reply);
        };
        let mut waiting = Detach::new(work, answer, &tasks);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        go.send(()).expect("the work goes on");
        is_done.await.expect("the work ends");
    }

    #[tokio::test]
    async fn the_reply_does_not_wait_for_what_comes_after_it() {
        let tasks = TaskTracker::new();
        let (reply, answer) = oneshot::channel();
        let (go, wait) = oneshot::channel::<()>();
        let work = async move {
            reply.send(7).expect("somebody waits");
            wait.await.expect("the test says when");
        };
        assert_eq!(Detach::new(work, answer, &tasks).await, Ok(7));
        tasks.close();
        assert!(!tasks.is_empty());
        go.send(()).expect("the work goes on");
        tasks.wait().await;
    }

    #[tokio::test]
    async fn work_without_a_reply_is_an_error() {
        let tasks = TaskTracker::new();
        let (reply, answer) = oneshot::channel::<()>();
        let work = async move { drop(reply) };
        assert!(Detach::new(work, answer, &tasks).await.is_err());
    }
}
