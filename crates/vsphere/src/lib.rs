mod element;
mod error;
mod map;
mod object;
mod tree;
