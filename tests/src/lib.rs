//! What only whole-house tests need lies in `tidy`, `sim` and `clients`; this library is empty.
