//! How requests are read and errors are told: whatever goes wrong, the body is an [`ErrorBody`].

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::types::{ErrorBody, ErrorKind};

/// Largest request body, bytes: a thousand volume names of a `group create` are a tenth of it.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// An error on its way out.
#[derive(Debug)]
pub(super) struct ErrorAnswer {
    status: StatusCode,
    body: ErrorBody,
}

impl ErrorAnswer {
    fn invalid(status: StatusCode, message: String) -> Self {
        Self { status, body: ErrorBody::new(ErrorKind::Invalid, message) }
    }
}

impl From<ErrorBody> for ErrorAnswer {
    fn from(body: ErrorBody) -> Self {
        Self { status: status_of(body.kind), body }
    }
}

impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// The HTTP status of each kind of error.
const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Refused => StatusCode::CONFLICT,
        ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A JSON body, whatever its content type says. No body at all reads as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ErrorAnswer;

    async fn from_request(request: Request, state: &S) -> Result<Self, ErrorAnswer> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ErrorAnswer::invalid(rejection.status(), format!("read the body: {rejection}")))?;
        let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(json).map(Self).map_err(|error| {
            let message = format!("the body is not what is expected here: {error}; GET /v1/openapi.json describes it");
            ErrorAnswer::invalid(StatusCode::BAD_REQUEST, message)
        })
    }
}

/// The names in a path.
pub(super) struct Names<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorAnswer> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(ErrorAnswer::invalid(StatusCode::BAD_REQUEST, rejection.body_text())),
        }
    }
}

/// No such path.
pub(super) async fn not_found(uri: Uri) -> ErrorAnswer {
    ErrorBody::new(ErrorKind::NotFound, format!("nothing is at {}", uri.path())).into()
}

/// The path is there, and is for something else.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ErrorAnswer {
    let message = format!("{method} is not for {}: the Allow header says what is", uri.path());
    ErrorAnswer::invalid(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Whether an order stands although something speaks against it.
#[derive(Debug, Clone, Copy, serde::Deserialize, utoipa::IntoParams)]
pub(super) struct Forced {
    /// Also then.
    #[serde(default)]
    pub(super) force: bool,
}
