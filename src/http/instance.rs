//! Which instance answered: a header on every answer, refusals too, so that a caller of a service of many can say
//! whom to look at.
//!
//! The outermost layer. What the site says under this name never gets here, and would be replaced.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

const INSTANCE: HeaderName = HeaderName::from_static("x-tabproxy-instance");

/// Names the instance in each answer.
pub(super) async fn layer(State(name): State<HeaderValue>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(INSTANCE, name);
    response
}
