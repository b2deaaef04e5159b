//! Quotas in configuration: written as text, read from text or from a table of fields.

use super::{Quota, QuotaBuilder, text::parse_window};
use crate::algorithm::{Algorithm, UnknownAlgorithm};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::{Serialize, Serializer};

/// Written as the canonical text.
impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Read from text, or from `limit`, `window` and, if wanted, `burst` and `algorithm`; other fields are
/// refused.
impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrFields)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    limit: u64,
    window: String,
    burst: Option<u64>,
    algorithm: Option<String>,
}

impl Fields {
    fn quota(self) -> Result<Quota, String> {
        let window = parse_window(&self.window)?;
        let algorithm = self.algorithm.map_or(Ok(Algorithm::default()), |name| name.parse());
        let algorithm = algorithm.map_err(|error: UnknownAlgorithm| error.to_string())?;
        let quota = QuotaBuilder { limit: self.limit, window, burst: self.burst, algorithm };
        quota.build().map_err(|error| error.to_string())
    }
}

struct TextOrFields;

impl<'de> Visitor<'de> for TextOrFields {
    type Value = Quota;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a quota such as \"100/minute\", or its fields: limit, window, burst, algorithm")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quota, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Quota, M::Error> {
        let fields: Fields = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        fields.quota().map_err(M::Error::custom)
    }
}
