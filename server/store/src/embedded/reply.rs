//! One answer from the writer's thread to the task that waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{CommitError, Revision};

pub(crate) type Answer = Result<Revision, CommitError>;

enum State {
    Waiting(Option<Waker>),
    Answered(Answer),
}

/// The writer's end. Dropped without an answer it answers that the store is closed.
pub(crate) struct Reply(Arc<Mutex<State>>);

/// The task's end.
pub(crate) struct Waiting(Arc<Mutex<State>>);

pub(crate) fn reply() -> (Reply, Waiting) {
    let state = Arc::new(Mutex::new(State::Waiting(None)));
    (Reply(state.clone()), Waiting(state))
}

impl Reply {
    pub(crate) fn answer(&self, answer: Answer) {
        self.set(answer);
    }

    fn set(&self, answer: Answer) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Answered(answer);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.set(Err(CommitError::Closed));
    }
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Answered(answer) => Poll::Ready(answer.clone()),
            State::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_once_or_closes() {
        let (sender, waiting) = reply();
        let thread = std::thread::spawn(move || smol::block_on(waiting));
        sender.answer(Ok(Revision(5)));
        assert_eq!(thread.join().expect("no panic"), Ok(Revision(5)));
        let (sender, waiting) = reply();
        drop(sender);
        assert_eq!(smol::block_on(waiting), Err(CommitError::Closed));
    }
}
