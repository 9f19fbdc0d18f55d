//! A `Status` in Kubernetes' protobuf.
//!
//! Formats: `k8s.io/apimachinery/pkg/runtime/generated.proto` and `…/apis/meta/v1/generated.proto`.

use bytes::Bytes;
use http::StatusCode;
use prost::Message;

/// What an object in protobuf begins with.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub(crate) type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) raw: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeMeta {
    #[prost(string, optional, tag = "1")]
    pub(crate) api_version: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) kind: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(string, optional, tag = "2")]
    pub(crate) status: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(crate) message: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) reason: Option<String>,
    #[prost(int32, optional, tag = "6")]
    pub(crate) code: Option<i32>,
}

/// A failure with this message and reason.
pub(crate) fn status(code: StatusCode, message: String, reason: String) -> Bytes {
    let status = Status {
        status: Some("Failure".into()),
        message: Some(message),
        reason: Some(reason),
        code: Some(code.as_u16().into()),
    };
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some("v1".into()),
            kind: Some("Status".into()),
        }),
        raw: Some(status.encode_to_vec()),
    };
    Bytes::from([MAGIC, &unknown.encode_to_vec()].concat())
}
