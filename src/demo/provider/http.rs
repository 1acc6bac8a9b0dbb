//! Routes, and how an answer goes out: whole, spoiled, or in pieces.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::fault::Fault;
use super::line::{Cut, CuttableListener};
use super::refusal::Refusal;
use super::shared::Inner;
use super::token::Rotation;

type Shared = State<Arc<Inner>>;
type Parameters = BTreeMap<String, String>;

/// Serves until the provider is stopped.
pub(super) async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    let stop = inner.stop.clone();
    let routes = Router::new()
        .route("/token", post(token))
        .route("/elsewhere", post(elsewhere).get(elsewhere))
        .route("/revoke", post(revoke))
        .route("/jwks", get(jwks))
        .route("/.well-known/openid-configuration", get(discovery))
        .with_state(inner);
    // Serving ends by the signal alone; the listener retries its own errors.
    let _: Result<(), io::Error> =
        axum::serve(CuttableListener(listener), routes.into_make_service_with_connect_info::<Cut>())
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
}

async fn token(
    State(inner): Shared,
    ConnectInfo(line): ConnectInfo<Cut>,
    headers: HeaderMap,
    Form(form): Form<Parameters>,
) -> Response {
    let fault = {
        let mut state = inner.state();
        state.stats.token_requests += 1;
        state.under_way += 1;
        state.stats.most_at_once = state.stats.most_at_once.max(state.under_way);
        state.last_form.clone_from(&form);
        if form.get("grant_type").is_some_and(|kind| kind == "refresh_token") {
            state.last_refresh.clone_from(&form);
        }
        let for_this_kind = state.watch.meet(&form);
        for_this_kind.or_else(|| state.faults.pop_front())
    };
    let _under_way = UnderWay(Arc::clone(&inner));
    let stop = inner.stop.clone();
    let request = Request { inner, form, authorization: authorization(&headers), line: line.clone() };
    tokio::select! {
        response = request.answer(fault) => response,
        () = stop.cancelled() => cut(&line),
    }
}

/// A token request that was counted; not any more when it is answered or its
/// peer has gone.
struct UnderWay(Arc<Inner>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

/// A token request with what its answer needs.
struct Request {
    inner: Arc<Inner>,
    form: Parameters,
    authorization: Option<String>,
    line: Cut,
}

/// The provider's own answer.
type Answer = Result<Map<String, Value>, Refusal>;

impl Request {
    async fn answer(&self, fault: Option<Fault>) -> Response {
        let Some(fault) = fault else { return whole(self.process()) };
        match fault {
            Fault::Status { consumes, .. } => {
                self.process_if(consumes);
                status_answer(fault)
            }
            Fault::EmptyBody400 => StatusCode::BAD_REQUEST.into_response(),
            Fault::Html { status, consumes } => {
                self.process_if(consumes);
                let page = "<!doctype html><title>Gateway</title><h1>Something went wrong</h1>";
                (status_code(status), [(header::CONTENT_TYPE, "text/html")], page).into_response()
            }
            Fault::NoRefreshToken => whole(self.process_with(Rotation::Never)),
            Fault::NullRefreshToken => {
                spoiled(self.process_with(Rotation::Never), |body| set(body, "refresh_token", Value::Null))
            }
            Fault::EmptyRefreshToken => {
                spoiled(self.process_with(Rotation::Never), |body| set(body, "refresh_token", "".into()))
            }
            Fault::ExpiresInText => spoiled(self.process(), |body| {
                let seconds = body.get("expires_in").map(ToString::to_string).unwrap_or_default();
                set(body, "expires_in", seconds.into());
            }),
            Fault::ExpiresInFloat => spoiled(self.process(), |body| {
                let seconds = body.get("expires_in").and_then(Value::as_f64).unwrap_or_default();
                set(body, "expires_in", (seconds + 0.5).into());
            }),
            Fault::ExpiresInGarbage => {
                spoiled(self.process(), |body| set(body, "expires_in", "in a while".into()))
            }
            Fault::ExpiresInMissing => spoiled(self.process(), |body| {
                body.remove("expires_in");
            }),
            Fault::OddScopeOrder => spoiled(self.process(), |body| {
                let scope = body.get("scope").and_then(Value::as_str).unwrap_or_default();
                let backwards = scope.split(' ').rev().collect::<Vec<_>>().join("  ");
                set(body, "scope", format!(" {backwards} ").into());
            }),
            Fault::NoAccessToken => spoiled(self.process(), |body| {
                body.remove("access_token");
            }),
            Fault::OversizedBody => {
                spoiled(self.process(), |body| set(body, "padding", "x".repeat(4 << 20).into()))
            }
            Fault::CloseBeforeAnswer { consume } => {
                self.process_if(consume);
                cut(&self.line)
            }
            Fault::HalfBody { consume } => {
                let answer = if consume { self.process() } else { Ok(self.look_alike()) };
                half(answer)
            }
            Fault::Hang { consume, gate } => {
                let early = consume.then(|| self.process());
                gate.pass().await;
                whole(early.unwrap_or_else(|| self.process()))
            }
            Fault::Delay(span) => {
                let answer = self.process();
                tokio::time::sleep(span).await;
                whole(answer)
            }
            Fault::Redirect => {
                let elsewhere = format!("{}/elsewhere", self.inner.base);
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere)]).into_response()
            }
        }
    }

    fn process(&self) -> Answer {
        self.process_with(Rotation::Always)
    }

    fn process_with(&self, rotation: Rotation) -> Answer {
        self.inner.token_answer(&self.form, self.authorization.as_deref(), rotation)
    }

    /// Does the work and forgets its answer.
    fn process_if(&self, consumes: bool) {
        if consumes {
            let _ = self.process();
        }
    }

    /// A success that nothing stands behind.
    fn look_alike(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("token_type".to_owned(), "Bearer".into());
        body.insert("access_token".to_owned(), self.inner.random_text(600).into());
        body
    }
}

async fn elsewhere(State(inner): Shared) -> StatusCode {
    inner.state().stats.redirects_followed += 1;
    StatusCode::NOT_FOUND
}

async fn revoke(State(inner): Shared, headers: HeaderMap, Form(form): Form<Parameters>) -> Response {
    let client = match inner.authenticate(&form, authorization(&headers).as_deref()) {
        Ok(client) => client,
        Err(refusal) => return whole(Err(refusal)),
    };
    // Unknown tokens get the same answer (RFC 7009 section 2.2).
    if let Some(handle) = form.get("token").and_then(|token| inner.handle_of(token)) {
        let mut state = inner.state();
        if let Some(revoked) = state.families.revoke(handle, &client) {
            state.stats.revocations += 1;
            state.stats.families_revoked += u64::from(revoked.was_alive);
        }
    }
    StatusCode::OK.into_response()
}

async fn jwks(State(inner): Shared) -> Response {
    let withheld = {
        let mut state = inner.state();
        state.stats.jwks_requests += 1;
        state.jwks_withheld
    };
    if withheld {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let keys = inner.signer.read().unwrap_or_else(std::sync::PoisonError::into_inner).jwks();
    axum::Json(keys).into_response()
}

async fn discovery(State(inner): Shared) -> axum::Json<Value> {
    let base = &inner.base;
    axum::Json(json!({
        "issuer": inner.issuer,
        "token_endpoint": format!("{base}/token"),
        "revocation_endpoint": format!("{base}/revoke"),
        "jwks_uri": format!("{base}/jwks"),
        "grant_types_supported": ["refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "client_secret_basic", "private_key_jwt"],
    }))
}

fn authorization(headers: &HeaderMap) -> Option<String> {
    headers.get(header::AUTHORIZATION)?.to_str().ok().map(str::to_owned)
}

fn whole(answer: Answer) -> Response {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => (status_code(refusal.status), refusal.to_json()),
    };
    json_answer(status, Value::Object(body))
}

/// A success with something changed in it; a refusal goes out as it is.
fn spoiled(answer: Answer, spoil: impl FnOnce(&mut Map<String, Value>)) -> Response {
    whole(answer.map(|mut body| {
        spoil(&mut body);
        body
    }))
}

fn set(body: &mut Map<String, Value>, name: &str, value: Value) {
    body.insert(name.to_owned(), value);
}

fn status_answer(fault: Fault) -> Response {
    let Fault::Status { status, error, suberror, claims, retry_after, body, content_type, consumes: _ } =
        fault
    else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = match body {
        Some(raw) => (status_code(status), raw).into_response(),
        None => {
            let parts = [("error", error), ("suberror", suberror), ("claims", claims)];
            let body: Map<String, Value> =
                parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?.into()))).collect();
            json_answer(status_code(status), Value::Object(body))
        }
    };
    if let Some(content_type) = content_type.and_then(|t| HeaderValue::try_from(t).ok()) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_answer(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Closes the connection; the response made here never gets out.
fn cut(line: &Cut) -> Response {
    line.cut();
    StatusCode::NO_CONTENT.into_response()
}

/// Announces the whole body, sends half of it and breaks off.
fn half(answer: Answer) -> Response {
    let body = match answer {
        Ok(body) => Value::Object(body).to_string(),
        Err(refusal) => return whole(Err(refusal)),
    };
    let length = body.len();
    let first_half = Bytes::from(body).slice(..length / 2);
    let pieces = stream::unfold(Some(first_half), |piece| async move {
        if piece.is_none() {
            // Gives the server time to send the first half; then the body ends
            // before its announced length, and so has the connection to.
            tokio::task::yield_now().await;
        }
        piece.map(|half| (Ok::<_, Infallible>(half), None))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
