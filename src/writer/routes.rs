//! Which paths there are, with which methods, and what they answer with.

use hyper::Method;
use matchit::Router;

/// What a path and a method stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    CreateOrder,
    ListOrders,
    OrderByNumber,
    OrderById,
    WriteEvents,
    Health,
    Ready,
    OpenApi,
}

/// A line of the table.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) endpoint: Endpoint,
    /// As logs and metrics name it: method and path.
    pub(super) name: &'static str,
    /// Every status that it answers with; 405 is for methods that are not in the table.
    pub(super) statuses: &'static [u16],
}

impl Route {
    fn method(&self) -> &'static str {
        self.name.split_once(' ').map_or("", |(method, _)| method)
    }

    fn path(&self) -> &'static str {
        self.name.split_once(' ').map_or("", |(_, path)| path)
    }

    /// Whether it answers without `SERVER_AUTH_TOKEN`: probes have none.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.endpoint, Endpoint::Health | Endpoint::Ready)
    }
}

const fn route(endpoint: Endpoint, name: &'static str, statuses: &'static [u16]) -> Route {
    Route { endpoint, name, statuses }
}

/// All routes.
pub(super) static ROUTES: [Route; 8] = [
    route(Endpoint::CreateOrder, "POST /api/v1/orders", &[201, 400, 401, 404, 408, 409, 413, 415, 500, 503]),
    route(Endpoint::ListOrders, "GET /api/v1/orders", &[200, 400, 401, 404, 500, 503]),
    route(Endpoint::OrderByNumber, "GET /api/v1/orders/number/{number}", &[200, 400, 401, 404, 500, 503]),
    route(Endpoint::OrderById, "GET /api/v1/orders/{id}", &[200, 400, 401, 404, 500, 503]),
    route(Endpoint::WriteEvents, "POST /api/v1/events", &[201, 400, 401, 408, 409, 413, 415, 500, 503]),
    route(Endpoint::Health, "GET /health", &[200, 503]),
    route(Endpoint::Ready, "GET /ready", &[200, 503]),
    route(Endpoint::OpenApi, "GET /openapi.json", &[200, 401]),
];

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Found<'p> {
    /// A route, and its path's parameter as it was sent.
    Route(&'static Route, &'p str),
    /// The path exists with these methods, as `Allow` lists them, and whether they answer without a token.
    OtherMethods(String, bool),
    /// There is no such path.
    Nothing,
}

/// Finds routes by path, then by method.
pub(super) struct Routes(Router<Vec<&'static Route>>);

impl Routes {
    /// The table, made searchable.
    ///
    /// # Panics
    /// If two lines of the table contradict each other, which a test would see.
    pub(super) fn new() -> Self {
        let mut router = Router::new();
        let mut paths: Vec<&str> = ROUTES.iter().map(Route::path).collect();
        paths.dedup();
        for path in paths {
            let routes: Vec<&Route> = ROUTES.iter().filter(|route| route.path() == path).collect();
            let inserted = router.insert(path, routes);
            assert!(inserted.is_ok(), "the table of routes contradicts itself at {path}: {inserted:?}");
        }
        Self(router)
    }

    pub(super) fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'p> {
        let Ok(found) = self.0.at(path) else { return Found::Nothing };
        // What is asked of GET may be asked of HEAD; hyper leaves the body out.
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        if let Some(route) = found.value.iter().find(|route| route.method() == method) {
            return Found::Route(route, found.params.iter().next().map_or("", |(_, value)| value));
        }
        let allowed: Vec<&str> = found
            .value
            .iter()
            .map(|route| if route.method() == "GET" { "GET, HEAD" } else { route.method() })
            .collect();
        Found::OtherMethods(allowed.join(", "), found.value.iter().all(|route| route.is_open()))
    }
}

/// Undoes percent-encoding; `None` if it is broken or the bytes are not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(method: &Method, path: &str) -> Result<(Endpoint, String), String> {
        match Routes::new().find(method, path) {
            Found::Route(route, parameter) => Ok((route.endpoint, parameter.to_owned())),
            Found::OtherMethods(allowed, _) => Err(allowed),
            Found::Nothing => Err("nothing".to_owned()),
        }
    }

    #[test]
    fn paths_and_methods_lead_to_their_routes() {
        for (method, path, expected) in [
            (Method::POST, "/api/v1/orders", Endpoint::CreateOrder),
            (Method::GET, "/api/v1/orders", Endpoint::ListOrders),
            (Method::HEAD, "/api/v1/orders", Endpoint::ListOrders),
            (Method::POST, "/api/v1/events", Endpoint::WriteEvents),
            (Method::GET, "/health", Endpoint::Health),
            (Method::GET, "/ready", Endpoint::Ready),
            (Method::GET, "/openapi.json", Endpoint::OpenApi),
        ] {
            assert_eq!(endpoint(&method, path), Ok((expected, String::new())), "{method} {path}");
        }
        assert_eq!(endpoint(&Method::GET, "/api/v1/orders/7"), Ok((Endpoint::OrderById, "7".into())));
        assert_eq!(
            endpoint(&Method::GET, "/api/v1/orders/number/a%2Fb"),
            Ok((Endpoint::OrderByNumber, "a%2Fb".into()))
        );
    }

    #[test]
    fn other_methods_are_answered_with_those_there_are_and_other_paths_with_nothing() {
        for (path, allowed) in [
            ("/api/v1/orders", "POST, GET, HEAD"),
            ("/api/v1/events", "POST"),
            ("/health", "GET, HEAD"),
            ("/", "nothing"),
            ("/health/", "nothing"),
            ("/api/v1/orders/1/2", "nothing"),
        ] {
            assert_eq!(endpoint(&Method::DELETE, path), Err(allowed.to_owned()), "{path}");
        }
    }

    #[test]
    fn percent_encoding_is_undone() {
        for (text, expected) in [
            ("a%2Fb%c3%A4+", Some("a/bä+")),
            ("%00", Some("\0")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%+4", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), expected, "{text}");
        }
    }
}
