//! The body of an answer, which holds the request's scope until it is over.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::scope::Scope;

/// What an answer consists of.
#[derive(Debug)]
pub(crate) enum Content {
    /// Bytes that are all here.
    Whole(VecDeque<Bytes>),
    /// Bytes that come.
    Stream(Box<dyn ContentStream>),
}

/// Bytes of an answer that come as the client takes them.
pub(crate) trait ContentStream: fmt::Debug + Send {
    /// The next bytes; nothing at the end. An error must reset the answer.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        scope: &mut Scope,
    ) -> Poll<Option<Result<Bytes, CutShort>>>;

    /// Whether the client has all.
    fn is_over(&self) -> bool;

    /// Bytes that are still to come, where that is known.
    fn length(&self) -> Option<u64> {
        None
    }

    /// Notes in the request's scope what is known at its end.
    fn end(&mut self, _scope: &mut Scope) {}
}

impl Content {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Whole(VecDeque::new())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(VecDeque::from([bytes]))
    }
}

/// An answer was cut short; its connection must not end as if it were whole.
#[derive(Debug, thiserror::Error)]
#[error("the response was cut short")]
pub struct CutShort(#[source] Box<dyn std::error::Error + Send + Sync>);

impl CutShort {
    pub(crate) fn because(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// The body of an answer at the users' port.
#[derive(Debug)]
pub struct ResponseBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(VecDeque<Bytes>),
    Stream(Box<dyn ContentStream>, Box<Scope>),
}

impl ResponseBody {
    /// A body of this content. The request is over at once where all of it is here.
    pub(crate) fn new(content: Content, mut scope: Box<Scope>) -> Self {
        Self(match content {
            Content::Whole(chunks) => {
                scope.sent = length(&chunks);
                Kind::Whole(chunks)
            }
            Content::Stream(stream) => Kind::Stream(stream, scope),
        })
    }

    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self(Kind::Whole(VecDeque::new()))
    }
}

fn length(chunks: &VecDeque<Bytes>) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Kind::Stream(stream, scope) = &mut self.0 {
            stream.end(scope);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(chunks) => {
                Poll::Ready(chunks.pop_front().map(|data| Ok(Frame::data(data))))
            }
            Kind::Stream(stream, scope) => {
                let span = scope.span().clone();
                let _entered = span.enter();
                let next = stream.poll_data(cx, scope);
                next.map(|next| next.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(chunks) => chunks.iter().all(Bytes::is_empty),
            Kind::Stream(stream, _) => stream.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(chunks) => SizeHint::with_exact(length(chunks)),
            Kind::Stream(stream, _) => {
                let length = stream.length();
                length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
