//! Compiles the API's definition in pure Rust: no protoc is needed. Its messages are what REST answers as JSON and
//! what the OpenAPI document describes, so that there is one definition of each.

use std::path::{Path, PathBuf};

use protox::prost::Message as _;

/// What each message is besides: JSON, and a schema.
const DERIVES: &str =
    "#[derive(::serde::Serialize, ::serde::Deserialize, ::utoipa::ToSchema)]\n#[serde(default)]";

/// What a question is besides whose fields are parameters of a query.
const QUERY: &str = "#[derive(::utoipa::IntoParams)]\n#[into_params(parameter_in = Query)]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["kas/admin/v1/admin.proto"], [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .message_attribute(".", DERIVES)
        .message_attribute("kas.admin.v1.ListAgentsRequest", QUERY)
        .message_attribute("kas.admin.v1.ListRequestsRequest", QUERY)
        .message_attribute("kas.admin.v1.ListLoadsRequest", QUERY)
        .message_attribute("kas.admin.v1.GetAccessRequest", QUERY)
        .message_attribute("kas.admin.v1.ListSessionsRequest", QUERY)
        // Their tokens are for who asks alone: `src/secret.rs`.
        .skip_debug(["kas.admin.v1.JoinToken", "kas.admin.v1.AgentToken"])
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
