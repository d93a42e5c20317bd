//! The administrator's kubeconfig (v1 `Config`), with certificates inline.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Leaf;

pub fn render(server_url: &str, ca_pem: &str, admin: &Leaf) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&admin.certificate_pem);
    let key = STANDARD.encode(&admin.key_pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: coracle\n\
         \x20 cluster:\n\
         \x20   server: {server_url}\n\
         \x20   certificate-authority-data: {ca}\n\
         users:\n\
         - name: admin\n\
         \x20 user:\n\
         \x20   client-certificate-data: {certificate}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: coracle\n\
         \x20 context:\n\
         \x20   cluster: coracle\n\
         \x20   user: admin\n\
         current-context: coracle\n"
    )
}
