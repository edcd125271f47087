//! Which version of each call to use: the highest that both sides know.
//!
//! A broker lists what it knows in its answer to ApiVersions, the first call of each connection. One that
//! does not know the version of that call itself says so in version 0 of the answer, with its list.

use std::collections::HashMap;

use kafka_protocol::messages::{ApiVersionsResponse, FetchRequest};
use kafka_protocol::protocol::{Message, Request};

/// Newest Fetch that is used: what later versions add is about replicas that fetch.
const NEWEST_FETCH: i16 = 17;

/// What one broker knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions {
    ranges: HashMap<i16, (i16, i16)>,
}

impl Versions {
    pub(super) fn new(answer: &ApiVersionsResponse) -> Self {
        let ranges = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        Self { ranges: ranges.collect() }
    }

    /// The version to use for a call, or why there is none.
    pub(super) fn pick<R: Request>(&self) -> Result<i16, String> {
        self.pick_within::<R>(R::VERSIONS.min, R::VERSIONS.max)
    }

    /// The same with bounds of the caller's.
    pub(super) fn pick_within<R: Request>(&self, min: i16, max: i16) -> Result<i16, String> {
        let ours = (min.max(R::VERSIONS.min), max.min(R::VERSIONS.max).min(newest(R::KEY)));
        let Some(&theirs) = self.ranges.get(&R::KEY) else {
            return Err(format!("the broker does not know the call {}", name::<R>()));
        };
        let version = ours.1.min(theirs.1);
        if version < ours.0 || version < theirs.0 {
            return Err(format!(
                "the broker knows versions {} to {} of {}, this client {} to {}",
                theirs.0,
                theirs.1,
                name::<R>(),
                ours.0,
                ours.1
            ));
        }
        Ok(version)
    }
}

fn newest(key: i16) -> i16 {
    if key == <FetchRequest as Request>::KEY { NEWEST_FETCH } else { i16::MAX }
}

/// The call as Kafka names it: the request's type without its module and its suffix.
pub(super) fn name<R: Message>() -> &'static str {
    let path = std::any::type_name::<R>();
    let name = path.rsplit("::").next().unwrap_or(path);
    name.strip_suffix("Request").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::MetadataRequest;
    use kafka_protocol::messages::api_versions_response::ApiVersion;

    use super::*;

    fn broker(key: i16, min: i16, max: i16) -> Versions {
        let api = ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max);
        Versions::new(&ApiVersionsResponse::default().with_api_keys(vec![api]))
    }

    #[test]
    fn the_highest_version_that_both_know_is_used() {
        let metadata = <MetadataRequest as Request>::KEY;
        assert_eq!(broker(metadata, 0, 9).pick::<MetadataRequest>(), Ok(9));
        assert_eq!(broker(metadata, 0, 99).pick::<MetadataRequest>(), Ok(MetadataRequest::VERSIONS.max));
        assert_eq!(broker(1, 4, 99).pick::<FetchRequest>(), Ok(NEWEST_FETCH));
    }

    #[test]
    fn where_none_is_known_to_both_the_error_names_the_call() {
        let error = broker(1, 99, 100).pick::<FetchRequest>().unwrap_err();
        assert_eq!(error, "the broker knows versions 99 to 100 of Fetch, this client 4 to 17");
        let error = broker(3, 0, 9).pick::<FetchRequest>().unwrap_err();
        assert_eq!(error, "the broker does not know the call Fetch");
    }
}
