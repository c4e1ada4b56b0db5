//! Nothing: the tests of this package compile wrong programs. It is a package of its own, so that they compile few
//! others.
