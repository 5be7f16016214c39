// Draws a QR code in the page: what it says goes to no server.

const QUIET = 4;
const SVG = "http://www.w3.org/2000/svg";

// `library` is the address of qrcode-generator, which is loaded when the first one is drawn.
export async function drawn(text, label, library) {
  const { qrcode } = await import(library);
  const code = qrcode(0, "L");
  code.addData(text);
  code.make();
  return picture(code, label);
}

function picture(code, label) {
  const count = code.getModuleCount();
  const size = count + 2 * QUIET;
  const dark = [];
  for (let row = 0; row < count; row += 1) {
    for (let column = 0; column < count; column += 1) {
      if (code.isDark(row, column)) dark.push(`M${column + QUIET} ${row + QUIET}h1v1h-1z`);
    }
  }
  const svg = element("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" });
  svg.append(element("rect", { width: size, height: size, fill: "#fff" }), element("path", { d: dark.join(""), fill: "#000" }));
  return svg;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}
