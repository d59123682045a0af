//! The driver's own account of its last load, as `tonnage loads --json` prints it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Error;
use super::screen::{size, time};
use crate::node::Site;

/// A load report.
#[derive(Debug)]
pub(super) struct Load(Value);

/// The newest load of the site's store.
pub(super) fn last(site: &Site, binary: &Path) -> Result<Option<Load>, Error> {
    let mut command = site.namespace().command(binary);
    command
        .args(["loads", "--json", "--cache-dir"])
        .arg(site.store());
    let output = command.output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tonnage loads: {text}").into());
    }
    let value: Value = serde_json::from_slice(&output.stdout)?;
    Ok(find(&value).map(|report| Load(report.clone())))
}

/// The first object that has phases.
fn find(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(fields) if fields.contains_key("phases") => Some(value),
        Value::Object(fields) => fields.values().find_map(find),
        Value::Array(items) => items.iter().find_map(find),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

impl Load {
    /// Two lines: where the time went, and where the bytes came from.
    pub(super) fn lines(&self) -> Vec<String> {
        let phases = self.0.get("phases").and_then(Value::as_array);
        let mut times: Vec<(String, u64)> = Vec::new();
        for phase in phases.into_iter().flatten() {
            let name = phase.get(0).and_then(Value::as_str).unwrap_or_default();
            let nanos = phase.get(1).and_then(Value::as_u64).unwrap_or_default();
            match times.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum = sum.saturating_add(nanos),
                None => times.push((name.to_owned(), nanos)),
            }
        }
        let phases: Vec<String> = times
            .into_iter()
            .map(|(name, nanos)| {
                let took = time(Duration::from_nanos(nanos));
                format!("{} {took}", name.replace('_', " "))
            })
            .collect();
        let origins = self.0.get("origins").and_then(Value::as_object);
        let origins: Vec<String> = origins
            .into_iter()
            .flatten()
            .filter_map(|(name, bytes)| {
                let bytes = bytes.as_u64().filter(|bytes| *bytes > 0)?;
                Some(format!("{} from {name}", size(bytes)))
            })
            .collect();
        let lines = [phases.join(" · "), origins.join(" · ")];
        lines.into_iter().filter(|line| !line.is_empty()).collect()
    }
}
