"use strict";
// A click or the Enter key on a picture shows it large; without this script the page only lacks that.
const viewer = document.createElement("dialog");
const large = document.createElement("img");
const words = document.createElement("p");
const close = document.createElement("button");
close.type = "button";
close.textContent = "Close";
close.addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});
for (const picture of document.querySelectorAll("main img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "zoom";
  button.setAttribute("aria-haspopup", "dialog");
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => {
    large.src = picture.src;
    large.alt = picture.alt;
    words.textContent = picture.alt;
    viewer.append(large, words, close);
    viewer.showModal();
  });
}
viewer.setAttribute("aria-label", "Picture, enlarged");
document.body.append(viewer);
