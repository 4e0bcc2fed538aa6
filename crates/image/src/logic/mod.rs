pub mod attributes;
pub mod ingest;
pub mod list;
pub mod metadefs;
pub mod patch;
pub mod range;
