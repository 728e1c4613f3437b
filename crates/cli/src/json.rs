//! Between the contract's values and JSON.

use anyhow::{Context as _, Result};
use lockstep_contract::{Data, Encoding, Place, PlainJson, Wire};
use serde_json::Value;

/// A value of the contract as JSON.
pub(crate) fn value(of: &impl Wire) -> Value {
    let mut json = PlainJson::default();
    of.encode(&mut json);
    // What a writer wrote is JSON.
    serde_json::from_slice(&json.out).unwrap_or(Value::Null)
}

/// Values of any kind as JSON.
pub(crate) fn of_data(data: &Data) -> Value {
    serde_json::from_str(&data.to_json()).unwrap_or(Value::Null)
}

/// JSON as the contract's tree.
pub(crate) fn to_data(value: &Value) -> Result<Data> {
    Data::from_json(value.to_string().as_bytes()).map_err(anyhow::Error::msg)
}

/// Reads a value of the contract from JSON text.
pub(crate) fn decode<T: Wire>(text: &[u8]) -> Result<T> {
    let data = Data::from_json(text).map_err(anyhow::Error::msg).context("not JSON")?;
    Ok(T::decode(data, &Place::root(Encoding::Plain))?)
}
