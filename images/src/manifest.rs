//! Image indexes, manifests and configurations: OCI and Docker schema 2.
