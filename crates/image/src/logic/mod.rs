pub mod attributes;
pub mod ingest;
pub mod list;
pub mod patch;
pub mod range;
