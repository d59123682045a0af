//! From a call's path (`/csi.v1.Node/NodePublishVolume`) to its service. One budget of calls for all connections: what is
//! above it is told to come back.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// Most calls that are worked on at once: every pod of a large node many times over.
const CALLS_MAX: usize = 4096;

type Handler = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// The services of a socket.
#[derive(Clone)]
pub struct Routes {
    services: Vec<(&'static str, Handler)>,
    calls: Arc<Semaphore>,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.services.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl Routes {
    /// No services: every call is answered UNIMPLEMENTED.
    pub fn new() -> Self {
        Self {
            services: Vec::new(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// Adds a service under its name.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        self.services
            .push((S::NAME, BoxCloneSyncService::new(service)));
        self
    }

    fn find(&self, path: &str) -> Option<Handler> {
        let (service, _) = path.strip_prefix('/')?.split_once('/')?;
        self.services
            .iter()
            .find(|(name, _)| *name == service)
            .map(|(_, handler)| handler.clone())
    }
}

impl hyper::service::Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let handler = self.find(request.uri().path());
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        Box::pin(async move {
            match (handler, permit) {
                (None, _) => {
                    Ok(Status::unimplemented("this socket has no such service").into_http())
                }
                (Some(_), Err(_)) => Ok(Status::resource_exhausted(
                    "too many calls at once; try again later",
                )
                .into_http()),
                (Some(handler), Ok(_permit)) => handler.oneshot(request).await,
            }
        })
    }
}
