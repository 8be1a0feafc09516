//! Lets no write reach the API server after this replica may write no more, and waits for none any longer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::{Method, Request};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, Service};

use super::Leadership;

/// A request that would have been a write.
#[derive(Debug, thiserror::Error)]
#[error("this replica may write no more: it could not renew its Lease in time, or it is stopping")]
struct Fenced;

/// Puts the fence before a client's service.
#[derive(Clone, Debug)]
pub struct FenceLayer(pub Leadership);

impl<S> Layer<S> for FenceLayer {
    type Service = Fence<S>;

    fn layer(&self, inner: S) -> Fence<S> {
        Fence { leadership: self.0.clone(), inner }
    }
}

/// A service behind the fence.
#[derive(Clone, Debug)]
pub struct Fence<S> {
    leadership: Leadership,
    inner: S,
}

impl<S, B> Service<Request<B>> for Fence<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if *request.method() == Method::GET {
            let sent = self.inner.call(request);
            return Box::pin(async { sent.await.map_err(Into::into) });
        }
        if !self.leadership.may_write() {
            return Box::pin(async { Err(Fenced.into()) });
        }
        let sent = self.inner.call(request);
        let leadership = self.leadership.clone();
        Box::pin(async move { while_it_may_write(&leadership, sent).await })
    }
}

/// A request is sent as it is polled, which may be long after the call: behind others, or after the process was frozen.
async fn while_it_may_write<T, E: Into<BoxError>>(
    leadership: &Leadership,
    sent: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    let mut sent = pin!(sent);
    let mut deadline = pin!(sleep(leadership.left()));
    poll_fn(|context| {
        while leadership.may_write() {
            if deadline.as_mut().poll(context).is_pending() {
                return sent.as_mut().poll(context).map_err(Into::into);
            }
            // It was renewed meanwhile.
            deadline.as_mut().reset(Instant::now() + leadership.left());
        }
        Poll::Ready(Err(Fenced.into()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant, SystemTime};

    use tower::ServiceExt as _;

    use super::*;
    use crate::sync::election::RENEW_DEADLINE;

    fn extend(leadership: &Leadership, ago: Duration) {
        leadership.extend((Instant::now() - ago, SystemTime::now() - ago));
    }

    fn request(method: &str) -> Request<()> {
        Request::builder().method(method).body(()).unwrap()
    }

    #[tokio::test]
    async fn reads_pass_always_and_writes_only_while_it_may_write() {
        let leadership = Leadership::candidate();
        let service =
            FenceLayer(leadership.clone()).layer(tower::service_fn(async |_: Request<()>| Ok::<_, BoxError>(())));
        let passes = async |method: &str| service.clone().oneshot(request(method)).await.is_ok();
        let mut all = Vec::new();
        for asked in [None, Some(Duration::ZERO), Some(RENEW_DEADLINE)] {
            if let Some(ago) = asked {
                extend(&leadership, ago);
            }
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                all.push(passes(method).await);
            }
        }
        let closed = [true, false, false, false, false];
        assert_eq!(all, [closed, [true; 5], closed].concat());
    }

    #[tokio::test]
    async fn a_write_under_way_ends_at_the_deadline_and_not_before_while_it_is_renewed() {
        const LEFT: Duration = Duration::from_millis(200);
        let leadership = Leadership::candidate();
        extend(&leadership, RENEW_DEADLINE - LEFT);
        let never = tower::service_fn(|_: Request<()>| std::future::pending::<Result<(), BoxError>>());
        let began = Instant::now();
        let written = tokio::spawn(FenceLayer(leadership.clone()).layer(never).oneshot(request("PUT")));
        // It waits for the first deadline by now.
        tokio::task::yield_now().await;
        extend(&leadership, RENEW_DEADLINE - 2 * LEFT);
        assert!(written.await.unwrap().unwrap_err().is::<Fenced>());
        assert!(began.elapsed() >= 2 * LEFT, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_write_that_was_called_in_time_is_not_sent_after_the_deadline() {
        let leadership = Leadership::candidate();
        extend(&leadership, Duration::ZERO);
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let mut service = FenceLayer(leadership.clone()).layer(tower::service_fn(move |_: Request<()>| {
            let counted = counted.clone();
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                Ok::<_, BoxError>(())
            }
        }));
        let (early, late) = (service.call(request("PUT")), service.call(request("PUT")));
        early.await.unwrap();
        leadership.close();
        assert!(late.await.unwrap_err().is::<Fenced>());
        assert_eq!(sent.load(Ordering::SeqCst), 1);
    }
}
