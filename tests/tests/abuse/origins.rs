//! Browsers' origins, and what a cluster may say to a browser.
