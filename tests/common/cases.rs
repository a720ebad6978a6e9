//! One test function, several cases: by protocol version, by number of shards.

/// Makes `name::v31`, `name::v311` and `name::v5` of a function that takes a `Version`.
macro_rules! versions {
    ($name:ident) => {
        versions!($name: v31 = V31, v311 = V311, v5 = V5);
    };
    ($name:ident, 3.x) => {
        versions!($name: v31 = V31, v311 = V311);
    };
    ($name:ident, from 3.1.1) => {
        versions!($name: v311 = V311, v5 = V5);
    };
    ($name:ident: $($case:ident = $version:ident),+) => {
        mod $name {
            $(#[test]
            fn $case() {
                super::$name(crate::common::Version::$version);
            })+
        }
    };
}

/// Makes `name::one_shard` and `name::three_shards` of a function that takes a number of shards.
macro_rules! shards {
    ($name:ident) => {
        mod $name {
            #[test]
            fn one_shard() {
                super::$name(1);
            }
            #[test]
            fn three_shards() {
                super::$name(3);
            }
        }
    };
}

pub(crate) use {shards, versions};
