//! Parts of the end-to-end tests and the demo that are not the product.
