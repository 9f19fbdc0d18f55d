"use strict";
// For those without a mouse: what is scrolled sideways can be focused, the contents are opened by a button, and are not
// walked through while they are hidden.
(() => {
  const wide = document.querySelectorAll("pre > code, .table-wrapper");
  const look = () => wide.forEach((it) => it.scrollWidth > it.clientWidth ? it.setAttribute("tabindex", "0") : it.removeAttribute("tabindex"));
  addEventListener("resize", look);
  // Letters that come later are of other widths.
  document.fonts.ready.then(look);
  look();

  // mdBook has a label there, which keys do not reach.
  const toggle = document.getElementById("mdbook-sidebar-toggle");
  const contents = document.getElementById("mdbook-sidebar");
  if (!toggle || !contents) return;
  toggle.setAttribute("role", "button");
  toggle.setAttribute("tabindex", "0");
  toggle.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    toggle.click();
  });
  // Swiping opens them too, so that the class is what tells.
  const page = document.documentElement;
  const follow = () => { contents.inert = !page.classList.contains("sidebar-visible"); };
  new MutationObserver(follow).observe(page, { attributes: true, attributeFilter: ["class"] });
  follow();
})();
