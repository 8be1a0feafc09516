//! Lets no write pass to the API server after this replica may write no more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Method, Request};
use tower::{BoxError, Layer, Service};

use super::Leadership;

/// A request that would have been a write.
#[derive(Debug, thiserror::Error)]
#[error("this replica could not renew its Lease in time and writes no more, until it can or another one works")]
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
        if *request.method() != Method::GET && !self.leadership.may_write() {
            return Box::pin(async { Err(Fenced.into()) });
        }
        let sent = self.inner.call(request);
        Box::pin(async { sent.await.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use tower::ServiceExt as _;

    use super::*;
    use crate::sync::election::RENEW_DEADLINE;

    #[tokio::test]
    async fn reads_pass_always_and_writes_only_while_it_may_write() {
        let leadership = Leadership::candidate();
        let service =
            FenceLayer(leadership.clone()).layer(tower::service_fn(async |_: Request<()>| Ok::<_, BoxError>(())));
        let passes = async |method: &str| {
            service.clone().oneshot(Request::builder().method(method).body(()).unwrap()).await.is_ok()
        };
        let mut all = Vec::new();
        for asked in [None, Some(Duration::ZERO), Some(RENEW_DEADLINE)] {
            if let Some(ago) = asked {
                leadership.extend((Instant::now() - ago, SystemTime::now() - ago));
            }
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                all.push(passes(method).await);
            }
        }
        let closed = [true, false, false, false, false];
        assert_eq!(all, [closed, [true; 5], closed].concat());
    }
}
