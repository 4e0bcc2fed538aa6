//! What compute's operations mean, free of HTTP and microversions.
