//! The messages of a stream, one by one, as far as a comparison needs them. Never decides what a difference means.

use std::hash::BuildHasher;

use tidings_contract::{EventId, wire};

use crate::nats::{
    Bus, BusError, Reader, ReaderError, StartFrom, envelope_of,
    protocol::{headers::REPUBLISHED, server_headers::left_out},
};

/// An event as a stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) event: EventId,
    pub(crate) name: String,
    /// 0 when its publisher did not state it.
    pub(crate) version: u32,
    pub(crate) key: Option<String>,
    /// The size of the payload.
    pub(crate) bytes: usize,
    /// The payload's hash, when payloads are read.
    pub(crate) payload: Option<u64>,
    /// Whether it was published again.
    pub(crate) is_republished: bool,
}

/// Reads a part of a stream.
pub(crate) struct StoredReader<H> {
    reader: Reader,
    up_to: u64,
    payloads: Option<H>,
}

impl Bus {
    /// Reads a stream from one sequence up to another; with payloads when a hasher is given.
    pub(crate) async fn read_stored<H: BuildHasher>(
        &self,
        stream: &str,
        from: u64,
        up_to: u64,
        payloads: Option<H>,
    ) -> Result<StoredReader<H>, ReaderError> {
        let headers_only = payloads.is_none();
        let start = StartFrom::Sequence(from);
        let reader = Reader::open(self, stream, Vec::new(), start, headers_only).await?;
        Ok(StoredReader {
            reader,
            up_to,
            payloads,
        })
    }
}

impl Bus {
    /// The event at a sequence of a stream, with the hash of its payload; `None` when there is no event.
    pub(crate) async fn stored_at<H: BuildHasher>(
        &self,
        stream: &str,
        sequence: u64,
        payloads: &H,
    ) -> Result<Option<Stored>, BusError> {
        let Some(kept) = self.kept(stream, sequence).await? else {
            return Ok(None);
        };
        let headers = kept.headers.iter();
        let headers = headers.map(|(name, value)| (&**name, &**value));
        let foreign = || format!("{stream}/{sequence}");
        let read = wire::read(&kept.subject, headers, kept.payload.clone(), foreign);
        Ok(read.ok().map(|envelope| Stored {
            sequence,
            event: envelope.id(),
            name: envelope.name().to_string(),
            version: envelope.version(),
            key: envelope.key().map(str::to_owned),
            bytes: kept.payload.len(),
            payload: Some(payloads.hash_one(&*kept.payload)),
            is_republished: kept.headers.iter().any(|(name, _)| name == REPUBLISHED),
        }))
    }
}

impl<H: BuildHasher> StoredReader<H> {
    /// The next event; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Stored>, ReaderError> {
        while let Some((message, place)) = self.reader.next_up_to(self.up_to).await? {
            let headers = message.headers.as_ref();
            let is_republished = headers.is_some_and(|headers| headers.get(REPUBLISHED).is_some());
            let left_out = match self.payloads {
                // The reader omits no payloads here, so a header that states an omission is forged.
                Some(_) => None,
                None => left_out(&message),
            };
            let bytes = left_out.unwrap_or(message.payload.len());
            let payload = self
                .payloads
                .as_ref()
                .map(|hasher| hasher.hash_one(&*message.payload));
            // A message without a name is no event, and has no row.
            let Ok(envelope) = envelope_of(&message, || place.identity()) else {
                continue;
            };
            return Ok(Some(Stored {
                sequence: place.sequence,
                event: envelope.id(),
                name: envelope.name().to_string(),
                version: envelope.version(),
                key: envelope.key().map(str::to_owned),
                bytes,
                payload,
                is_republished,
            }));
        }
        Ok(None)
    }
}
