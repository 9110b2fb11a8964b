// Plain files in out/: any web server can serve them, Stent does the rest.
export default { output: "export" };
