//! Which path and method has which handler. A handler returns a [`Problem`] for what it refuses; the
//! [`super::context`] answers it, since it knows the path.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::ALLOW;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::from_fn;
use actix_web::{App, Error, FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, web};

use super::problem::Problem;
use super::requests::Route;
use super::state::State;
use super::{MAX_BODY, context, contract, docs, health, list, live, metrics, page, tasks};

/// The application: all routes, for a server or a test.
pub fn app(
    state: State,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(web::Data::new(state))
        .app_data(web::PayloadConfig::new(MAX_BODY))
        .service(
            resource("/tasks", "GET, HEAD, OPTIONS, POST")
                .route(web::post().to(tasks::create))
                .route(web::get().to(list::list))
                .route(web::head().to(list::list)),
        )
        .service(
            resource("/tasks/{id}", "DELETE, GET, HEAD, OPTIONS, PATCH")
                .route(web::get().to(tasks::get))
                .route(web::head().to(tasks::get))
                .route(web::patch().to(tasks::patch))
                .route(web::delete().to(tasks::delete)),
        )
        .service(resource("/tasks/{id}/complete", "OPTIONS, POST").route(web::post().to(tasks::complete)))
        .service(read_only("/", page::index))
        .service(resource("/live/stream", "GET, OPTIONS").route(web::get().to(live::stream)))
        .service(resource("/live/trace/{id}", "GET, OPTIONS").route(web::get().to(live::trace)))
        .service(resource("/live/outbox/{id}", "GET, OPTIONS").route(web::get().to(live::outbox)))
        .service(
            resource("/live/dead-letters/{partition}/{offset}", "GET, OPTIONS")
                .route(web::get().to(live::letter)),
        )
        .service(resource("/live/redrive", "OPTIONS, POST").route(web::post().to(live::redrive)))
        .service(read_only("/healthz", health::live))
        .service(read_only("/readyz", health::ready))
        .service(read_only("/metrics", metrics::exposition))
        .service(read_only("/docs", docs::page))
        .service(read_only("/openapi.json", contract::openapi))
        .service(read_only("/asyncapi.json", contract::asyncapi))
        .service(read_only("/schemas/task-event.json", contract::task_event))
        .default_service(web::to(no_such_path))
        .wrap(from_fn(context::around))
}

/// A path with the methods that it has: OPTIONS says which, and any other one is 405.
fn resource(path: &'static str, allow: &'static str) -> Resource {
    let options = move || async move { HttpResponse::NoContent().insert_header((ALLOW, allow)).finish() };
    let method_not_allowed = move |request: HttpRequest| async move {
        let detail = format!("{} is not allowed here, only {allow}", request.method());
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail);
        Err::<HttpResponse, _>(problem.with_header(ALLOW, allow))
    };
    web::resource(path)
        .app_data(Route(path))
        .route(web::method(Method::OPTIONS).to(options))
        .default_service(web::to(method_not_allowed))
}

/// HEAD is answered wherever GET is.
fn read_only<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, "GET, HEAD, OPTIONS").route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// What is none of our paths: 404, or for `OPTIONS *` the methods of the whole server.
async fn no_such_path(request: HttpRequest) -> Result<HttpResponse, Problem> {
    if request.method() == Method::OPTIONS && request.path() == "*" {
        return Ok(HttpResponse::NoContent()
            .insert_header((ALLOW, "DELETE, GET, HEAD, OPTIONS, PATCH, POST"))
            .finish());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, "No such path; see /openapi.json"))
}
