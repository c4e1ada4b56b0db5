//! Nothing: the tests of this package enqueue through other drivers. It is a package of its own, so that no other one
//! compiles them.
